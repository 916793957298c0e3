"""What a pipeline of stages does; the stages are threads of this process."""

import socket
import time
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.distributed import Options, PeerError, SchemaError, Stage, serve
from synthgrad.distributed._ports import Outgoing
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.inputs import SyntheticInput
from tests.distributed.processes import batches, errors, unseen
from tests.distributed.threads import Pipeline, build

pytestmark = pytest.mark.timeout(60)


def _segments(*widths):
    hidden = [
        nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(widths)
    ]
    return [*hidden, nn.Linear(widths[-1], 4)]


def _stages(segments, feedbacks=None, options=None, **settings):
    widths = [next(s.parameters()).shape[0] for s in segments[:-1]]
    return build(
        segments,
        feedbacks or [sg.feedback.Linear(w, context=4) for w in widths],
        options=options or Options(timeout=5.0),
        **{
            "batches": batches,
            "loss_fn": F.cross_entropy,
            "optimizer": partial(torch.optim.Adam, lr=5e-3),
            "evaluation": unseen,
            "metric": errors,
        }
        | settings,
    )


@pytest.mark.parametrize(
    "options",
    [
        Options(window=1),
        Options(window=16),
        Options(window="auto"),
        Options(target_every=3),
        Options(message_dtype=torch.bfloat16),
    ],
    ids=["window 1", "window 16", "auto", "every third target", "bfloat16"],
)
def test_two_stages_learn(options):
    results = Pipeline(_stages(_segments(8, 16), options=options), 250).join()
    first, last = results
    assert last["result"]["metric"] < 15
    assert last["result"]["examples"] == 4 * 64
    assert first["updates"] == last["updates"] == first["sent"] == 250
    assert first["dropped"] == 0
    # Those of the last window may still be on their way when the run is over.
    wanted = -(-250 // options.target_every)
    assert wanted - options.capacity <= first["targets"] <= wanted
    assert first["late"] == 0
    assert 0 <= first["target_age"] <= options.capacity
    if options.window == "auto":
        assert first["round_trip"] is not None


def test_a_pipeline_without_feedback_learns_less():
    torch.manual_seed(1)
    none = Pipeline(_stages(_segments(8, 4), [sg.feedback.Zero()]), 300).join()[-1]
    torch.manual_seed(1)
    some = Pipeline(_stages(_segments(8, 4)), 300).join()[-1]
    assert some["result"]["metric"] < none["result"]["metric"] - 2


def test_eight_stages_of_uneven_widths_run_and_learn():
    # A small window: on a busy machine targets would come late, and seven of them add up.
    stages = _stages(_segments(8, 24, 16, 32, 16, 24, 16, 20), options=Options(window=2))
    results = Pipeline(stages, 250).join()
    assert [r["updates"] for r in results] == [250] * 8
    assert all(r["targets"] > 225 for r in results[:-1])
    assert results[-1]["result"]["metric"] < 60  # of 75 by chance


def test_the_window_holds_and_only_it_makes_a_stage_wait(monkeypatch):
    seen = []
    send = Outgoing._send
    monkeypatch.setattr(
        Outgoing, "_send", lambda self, f: (send(self, f), seen.append(self.edge.in_flight))[0]
    )
    slow = {1: {"before_step": lambda _: time.sleep(0.01)}}
    stages = _stages(_segments(8, 16), options=Options(window=3), every_stage=slow)
    first, _ = Pipeline(stages, 60).join()
    assert max(seen) == 3
    assert first["waited_for_window"] > 0.2


def test_targets_come_late_and_fit_all_the_same():
    slow = {1: {"before_step": lambda _: time.sleep(0.01)}}
    stages = _stages(_segments(8, 16), options=Options(window=12), every_stage=slow)
    first, last = Pipeline(stages, 200).join()
    assert first["target_age"] > 6  # of 12 at most
    assert last["result"]["metric"] < 20


def test_evaluations_come_in_between_and_leave_the_statistics_alone():
    found = []
    settings = {1: {"on_result": lambda step, values: found.append((step, values))}}
    segments = _segments(8, 16)
    Pipeline(_stages(segments, evaluate_every=50, every_stage=settings), 170).join()
    assert [step for step, _ in found] == [50, 100, 150, 170]
    assert all(set(values) == {"train_loss", "metric", "examples"} for _, values in found)
    assert found[-1][1]["metric"] < found[0][1]["metric"]
    assert segments[0][1].num_batches_tracked == 170  # of training alone
    model = nn.Sequential(*segments).eval()
    joined = torch.cat([errors(model(x), y) for x, y in unseen()]).mean()
    assert found[-1][1]["metric"] == pytest.approx(joined.item())


def test_a_smaller_batch_is_filled_up_and_a_larger_one_refused():
    x, y = batches(10**6)
    stages = _stages(_segments(8, 16), evaluation=lambda: [(x[:40], y[:40]), (x[40:], y[40:])])
    assert Pipeline(stages, 20).join()[-1]["result"]["examples"] == 64
    stages = _stages(
        _segments(8, 16),
        evaluation=lambda: [(torch.cat([x, x]), torch.cat([y, y]))],
        options=Options(timeout=1.0, patience=3.0),
    )
    with pytest.raises(ShapeError, match="128 examples, expected 1 to 64"):
        Pipeline(stages, 3).join()


def test_fully_unlocked_stages_do_not_wait_for_their_predecessor():
    slow = {
        0: {"before_step": lambda _: time.sleep(0.01)},
        1: {"inputs": SyntheticInput(8, 16, (32,))},
    }
    stages = _stages(_segments(8, 16), every_stage=slow)
    first, last = Pipeline(stages, 300).join()
    assert last["synthetic_inputs"] > 100
    assert first["updates"] == 300
    # Its own steps are soon made; to the end it learns from every message, and answers it.
    assert last["updates"] == last["synthetic_inputs"] + 300
    assert first["targets"] > 290
    assert last["result"]["metric"] < 20  # of 75 by chance


def test_the_segment_of_the_next_stage_has_to_take_the_message():
    segments = [nn.Sequential(nn.Linear(8, 16)), nn.Linear(12, 4)]
    stages = _stages(segments, options=Options(timeout=1.0, patience=5.0))
    with pytest.raises(SchemaError, match=r"stage 1 cannot take messages \(64, 16\) of float32"):
        Pipeline(stages, 5).join()


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ({"fingerprint": "another"}, "fingerprint is '', expected 'another'"),
        ({"target_every": 2}, "target_every is 1, expected 2"),
        ({"message_dtype": torch.bfloat16}, "wire is 'float32', expected 'bfloat16'"),
    ],
    ids=["fingerprint", "target_every", "message_dtype"],
)
def test_both_ends_of_an_edge_that_do_not_fit_say_why(theirs, says):
    stages = _stages(_segments(8, 16), options=Options(patience=5.0))
    other = _stages(_segments(8, 16), options=Options(**({"patience": 5.0} | theirs)))[1]
    other.worker.place.transport = stages[0].worker.place.transport
    pipeline = Pipeline([stages[0], other], 5)
    for thread in pipeline.threads:
        thread.join(20)
    assert len(pipeline.problems) == 2
    for problem in pipeline.problems:
        assert isinstance(problem, SchemaError)
        assert says in str(problem)


def test_a_stage_alone_gives_up_when_its_patience_ends():
    stages = _stages(_segments(8, 16), options=Options(timeout=0.3, patience=0.5))
    with pytest.raises(PeerError, match=r"stage 1 did not come within 0\.5 s"):
        stages[0].run(5)
    with pytest.raises(PeerError, match=r"nothing came from stage 0 for"):
        stages[1].run(5)


def test_one_stage_is_a_plain_loop():
    x, y = batches(0)
    stages = build(
        [nn.Linear(8, 4)],
        [],
        options=Options(),
        batches=lambda step: (x, y),
        loss_fn=lambda output, y: F.cross_entropy(output, y, reduction="none"),
        optimizer=partial(torch.optim.SGD, lr=1.0),
    )
    assert Pipeline(stages, 30).join()[0]["updates"] == 30


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"index": 2}, r"index must lie in \[0, 2\) for 2 stages, got 2"),
        ({"batches": None}, "stage 0 needs batches"),
        ({"feedback": None}, "every other one a feedback model"),
        ({"loss_fn": F.cross_entropy}, "stage 0 of 2 takes no loss_fn"),
        ({"store": "here"}, "store must be \"host:port\", got 'here'"),
        ({"inputs": SyntheticInput(8, 8)}, "the first stage has its input"),
        ({"feedback": sg.feedback.Critic(nn.Linear(8, 1))}, "fitted to values of the loss"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_stage_cannot_be_made_of_is_refused(changed, says):
    right = {"index": 0, "stages": 2, "store": "127.0.0.1:1", "batches": batches}
    right |= {"optimizer": torch.optim.Adam, "feedback": sg.feedback.Linear(8)}
    with pytest.raises(ArgumentError, match=says):
        Stage(nn.Linear(8, 8), **(right | changed))


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 0},
        {"window": "wide"},
        {"target_every": 0},
        {"alone": -1},
        {"timeout": 0.0},
        {"patience": -1.0},
        {"checkpoint_every": 0.0},
        {"message_dtype": torch.int64},
        {"synchronous": True, "target_every": 2},
    ],
    ids=str,
)
def test_options_outside_their_range_are_refused_by_name(as_installed, wrong):
    with pytest.raises(ArgumentError, match=next(reversed(wrong))):
        Options(**wrong)


def test_the_store_listens_on_loopback_alone():
    store = serve()
    with socket.create_connection(("127.0.0.1", store.port), 1):
        pass
    others = {str(a[4][0]) for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for other in others - {"127.0.0.1"}:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((other, store.port), 1).close()
    with pytest.raises(ArgumentError, match="cannot listen"):
        serve(store.port)
