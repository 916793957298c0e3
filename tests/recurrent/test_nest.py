from collections import OrderedDict, namedtuple

import pytest
import torch

from synthgrad._nest import describe, every, floating, matched, transform, with_floating

Pair = namedtuple("Pair", "left right")


def _nest():
    return {
        "a": torch.zeros(2),
        "b": [Pair(torch.ones(1, 3), None), (torch.arange(2), 5)],
        "c": OrderedDict(z=torch.full((1,), 2.0), y="text"),
    }


def test_tensors_come_in_the_order_of_the_nest():
    assert [tuple(t.shape) for t in every(_nest())] == [(2,), (1, 3), (2,), (1,)]
    assert [tuple(t.shape) for t in floating(_nest())] == [(2,), (1, 3), (1,)]


def test_a_transformed_nest_is_of_the_same_kinds():
    nest = _nest()
    result = transform(nest, lambda t: t + 1)
    assert type(result["b"][0]) is Pair
    assert type(result["c"]) is OrderedDict
    assert list(result["c"]) == ["z", "y"]
    assert result["b"][1][1] == 5
    assert result["c"]["y"] == "text"
    assert torch.equal(result["b"][1][0], torch.tensor([1, 2]))
    assert torch.equal(nest["a"], torch.zeros(2))  # the original is as it was


def test_only_floating_tensors_are_exchanged():
    nest = _nest()
    result = with_floating(nest, [torch.full_like(t, 9) for t in floating(nest)])
    assert all((t == 9).all() for t in floating(result))
    assert result["b"][1][0] is nest["b"][1][0]


@pytest.mark.parametrize(
    ("nest", "text"),
    [
        (torch.zeros(2, 3), "(2, 3)"),
        ((torch.zeros(2), torch.zeros(3)), "((2,), (3,))"),
        ((torch.zeros(2),), "((2,),)"),
        ([torch.zeros(2)], "[(2,)]"),
        ({"h": torch.zeros(2), 1: None}, "{'h': (2,), 1: NoneType}"),
        (Pair(torch.zeros(2), 3), "Pair((2,), int)"),
        (None, "NoneType"),
    ],
)
def test_a_nest_is_described(nest, text):
    assert describe(nest) == text


def test_nests_are_matched_by_place_and_key():
    nest = _nest()
    other = {key: nest[key] for key in ("c", "b", "a")}
    assert list(map(id, matched(nest, other) or [])) == list(map(id, every(nest)))


@pytest.mark.parametrize("change", [{"a": 3}, {"b": []}, {"b": ()}, {"d": torch.ones(1)}, {"c": 1}])
def test_another_nest_does_not_match(change):
    assert matched(_nest(), _nest() | change) is None
    assert matched(_nest() | change, _nest()) is None


def test_different_nests_are_described_differently():
    h = torch.zeros(2, 3)
    nests = [h, (h,), [h], (h, h), {"h": h}, {"c": h}, Pair(h, h), torch.zeros(3, 2), None]
    assert len({describe(nest) for nest in nests}) == len(nests)
