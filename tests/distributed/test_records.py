"""What stands in the store may be anything: it is refused by name, and takes no more room."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthgrad.distributed import Options, SchemaError, serve
from synthgrad.distributed.protocol import RecordError, Schema
from synthgrad.distributed.transport._gloo_direct import Endpoint
from synthgrad.distributed.transport._gloo_store import read_record
from synthgrad.errors import ArgumentError
from tests.distributed.links import Ends, open_end, schema, until

pytestmark = pytest.mark.timeout(60)

_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_FIELDS = sorted(json.loads(schema().to_json()))


def _read_or_named(read, data, names):
    """What was read; None where it was refused by one of the names."""
    try:
        return read(data)
    except SchemaError as error:
        if any(name in str(error) for name in names):
            return None
        raise


@given(st.dictionaries(st.sampled_from(_FIELDS), _JUNK, min_size=1, max_size=3))
@settings(max_examples=400, deadline=None)
def test_a_schema_is_whole_or_refused(changed):
    text = json.dumps(json.loads(schema().to_json()) | changed)
    found = _read_or_named(Schema.from_json, text, [*changed, "tensor type"])
    if found is None:
        return
    assert found.message().size < 1 << 40
    assert 1 <= found.capacity <= 128


@given(st.binary(max_size=200) | _JUNK.map(lambda junk: json.dumps(junk).encode()))
@settings(max_examples=400, deadline=None)
def test_a_record_is_whole_or_refused(data):
    found = _read_or_named(lambda given: read_record(given, "edge3/1"), data, ["'edge3/1'"])
    assert found is None or (found["name"] and isinstance(found["seen"] + found["refused"], str))


@given(_JUNK)
@settings(deadline=None)
def test_an_endpoint_is_whole_or_refused(junk):
    found = _read_or_named(Endpoint.from_record, junk, ["endpoint"])
    assert found is None or isinstance(found.place, str)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"[" * 100_000, "100000 bytes, expected at most 65536"),
        (b"[" * 60_000, "not JSON"),
        (b'{"name": ' + b"9" * 6000 + b"}", "not JSON|'name' is"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"null", "expected an object, got NoneType"),
        (b'{"name": "", "seen": "", "refused": ""}', "'name' is ''"),
        (b'{"name": "a", "seen": NaN, "refused": ""}', "'seen' is nan"),
        (b'{"name": "a", "seen": "", "refused": 1e400}', "'refused' is inf"),
    ],
    ids=["enormous", "nested", "digits", "bytes", "null", "no name", "nan", "inf"],
)
def test_what_is_no_record_is_named(data, says):
    with pytest.raises(RecordError, match=says):
        read_record(data, "edge0/1")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"capacity": 10**9}, "capacity is 1000000000, expected a whole number from 1 to 128"),
        ({"target_every": 1.5}, "target_every is 1.5"),
        ({"stages": True}, "stages is True"),
        ({"shape": [10**6, 10**6]}, "shape is .*bytes, expected at most"),
        ({"shape": [-1]}, "shape is .*whole numbers"),
        ({"shape": [[[]]]}, "shape is"),
        ({"label_shape": [1] * 1000}, "label_shape is .*at most 16"),
        ({"dtype": "Tensor"}, "no tensor type 'Tensor'"),
        ({"dtype": "int64"}, "dtype is 'int64', expected a floating-point type"),
        ({"label_dtype": "quint8"}, "no tensor type 'quint8'"),
        ({"fingerprint": "x" * 10**5}, "fingerprint is 'xxx.*expected a string of at most"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_field_out_of_its_range_is_named(changed, says):
    with pytest.raises(RecordError, match=says):
        Schema.from_json(json.dumps(json.loads(schema().to_json()) | changed))


def _record(**more):
    return json.dumps({"name": "a", "seen": "", "refused": "", **more})


@pytest.mark.parametrize(
    ("rank", "text", "says"),
    [
        (0, _record(), "edge to stage 1: .*'edge0/1'.*wants_message is None"),
        (0, _record(wants_message=1e15), "edge to stage 1: .*wants_message is 1000000000000000"),
        (0, _record(wants_message=False, endpoint=[1]), "endpoint is \\[1\\]"),
        (0, "junk", "edge to stage 1: .*not JSON"),
        (1, _record(), "edge to stage 0: .*'edge0/0'.*schema is not JSON, but None"),
        (1, _record(schema='{"version": 2}'), "edge to stage 0: .*has the fields"),
        (1, "[" * 10**5, "edge to stage 0: .*100000 bytes"),
    ],
)
def test_an_edge_that_meets_junk_says_so(rank, text, says):
    store = serve()
    store.set(f"edge0/{1 - rank}", text)
    edge = open_end(f"127.0.0.1:{store.port}", rank, schema(), Options(timeout=2.0))
    until(lambda: edge.problem is not None)
    edge.close()
    with pytest.raises(SchemaError, match=says):
        edge.check()


def test_a_store_holds_no_more_however_often_an_edge_is_formed():
    store = serve()
    with Ends(f"127.0.0.1:{store.port}") as ends:
        ends.up()
        if not hasattr(store, "list_keys"):
            pytest.skip("this version of torch cannot list the keys of a store")
        first = store.num_keys()
        for generation in range(2, 6):
            ends.edges[0].reset()
            until(lambda g=generation: all(e.up and e.generation == g for e in ends.edges))
        assert store.num_keys() == first


@pytest.mark.parametrize("seconds", [1e15, float("nan"), float("inf"), "10", True, -1])
def test_a_timeout_that_cannot_be_waited_for_is_refused(seconds):
    with pytest.raises(ArgumentError, match="timeout must be a positive number of seconds"):
        Options(timeout=seconds)
