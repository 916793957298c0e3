"""Three ways to train two networks: what each updates, from which errors, and when."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from synthgrad._extra_state import unpacked
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.digit_counters import errors
from synthgrad.lab.experiments.digit_streams import Streams
from synthgrad.lab.experiments.multirate import RECIPES, MultiNetworkTrainer
from synthgrad.lab.runs.run import run

RECIPE = replace(RECIPES["multi-network"], data="digits")
DATA = RECIPE.load(None, torch.device("cpu"))
METHODS = ("backprop", "none", "dni", "cdni")
SMALL = {"units": 8, "batch_size": 8, "unroll": 2, "threads": 1, "learning_rate": 0.01}


def _config(**values):
    return RECIPE.settle(RECIPE.defaults.changed(**(SMALL | values)))


def _trainer(**values) -> MultiNetworkTrainer:
    return RECIPE.build(_config(**values), DATA, torch.device("cpu"))


def _by_hand(a, b, digits):
    """What A says of the first two and of the last two digits, and B of all four."""
    _, _, state = a(digits[0], None)
    one, message, _ = a(digits[1], state)
    _, _, heard = b(message, None)
    _, _, state = a(digits[2], None)
    other, message, _ = a(digits[3], state)
    threes, _, _ = b(message, heard)
    return one, other, threes


def _weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def _changed(module, before):
    return {name.split(".")[0] for name, p in module.named_parameters() if p.ne(before[name]).any()}


def test_all_methods_begin_with_the_same_networks():
    one, *others = (_trainer(method=method, seed=3) for method in METHODS)
    for other in others:
        assert_close(other.a.state_dict(), one.a.state_dict(), rtol=0, atol=0)
        assert_close(other.b.state_dict(), one.b.state_dict(), rtol=0, atol=0)
    assert not torch.equal(_trainer(seed=4).b.answer.weight, one.b.answer.weight)


def test_as_one_graph_it_is_the_plain_loop():
    trainer = _trainer(method="backprop")
    a, b = copy.deepcopy((trainer.a, trainer.b))
    optimizer = torch.optim.Adam([*a.parameters(), *b.parameters()], lr=0.01)
    streams = Streams(DATA.train_x, DATA.train_y, 8, 2, 0)
    for step in range(3):
        seen = streams.at(step)
        first, second, threes = _by_hand(a, b, seen.digits)
        loss = F.cross_entropy(first, seen.odd[0]) + F.cross_entropy(second, seen.odd[1])
        loss = loss + F.cross_entropy(threes, seen.threes_in_all)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainer.advance()
    # B's normalisation takes the mean of what it reads away, so that the message's shift has no
    # gradient but rounding, and goes wherever that points.
    found, expected = _weights(trainer.a), _weights(a)
    del found["message.1.bias"], expected["message.1.bias"]
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert_close(_weights(trainer.b), _weights(b), rtol=1e-4, atol=1e-5)
    assert trainer.summary() == {"updates": {"joint": 3}}


@pytest.mark.parametrize("method", METHODS)
def test_what_learns_and_how_often(method):
    trainer = _trainer(method=method, unroll=3)
    before = _weights(trainer.a), _weights(trainer.b)
    trainer.advance()
    a = _changed(trainer.a, before[0])
    # A fresh feedback model predicts no error, so its first synthetic gradients change nothing.
    assert a == {"eye", "cell", "answer"} | ({"message"} if method == "backprop" else set())
    assert _changed(trainer.b, before[1]) == {"cell", "answer"}
    trainer.advance()
    told = method != "none"
    assert ("message" in _changed(trainer.a, before[0])) == told
    updates = {"joint": 2} if method == "backprop" else {"a": 6, "b": 2}
    assert trainer.summary() == {"updates": updates}
    assert trainer.samples == 2 * 9 * 8
    assert trainer.evaluate()["ticks"] == 18


def test_only_the_conditional_model_sees_the_threes():
    """The same streams with other labels, of which A's own task cannot tell a difference."""
    shown = DATA.train_y.clone()
    shown[DATA.train_y == 3] = 5
    blind = replace(DATA, train_y=shown)
    for method, differs in (("dni", False), ("cdni", True)):
        found = []
        for data in (DATA, blind):
            trainer = RECIPE.build(_config(method=method), data, torch.device("cpu"))
            with torch.no_grad():
                for p in trainer.graph.interfaces.parameters():
                    p.copy_(torch.linspace(-1, 1, p.numel()).view(p.shape))
            trainer.advance()
            found.append(_weights(trainer.a)["message.0.weight"])
        assert (not torch.equal(*found)) == differs


def test_the_scale_is_that_of_the_synthetic_gradient():
    """At 0 A learns what it learns without feedback, to the last bit."""
    none, still, told = (
        _trainer(**values)
        for values in ({"method": "none"}, {"method": "dni", "scale": 0}, {"method": "dni"})
    )
    for _ in range(3):
        for trainer in (none, still, told):
            trainer.advance()
    assert_close(_weights(still.a), _weights(none.a), rtol=0, atol=0)
    assert "message" in _changed(told.a, _weights(none.a))


def test_errors_are_counted_on_plain_modules_that_stay_as_they_are():
    trainer = _trainer(method="none")
    trainer.advance()
    tested = trainer._tested["test"]
    before = copy.deepcopy(trainer.a.state_dict())
    wrong = errors(trainer.a, trainer.b, tested)
    assert_close(trainer.a.state_dict(), before, rtol=0, atol=0)
    assert trainer.a.training
    assert trainer.b.training
    trainer.a.eval()
    trainer.b.eval()
    *said, threes = (
        logits.argmax(dim=1) for logits in _by_hand(trainer.a, trainer.b, tested.digits)
    )
    wrong_a = sum(int((s != o).sum()) for s, o in zip(said, tested.odd, strict=True))
    wrong_b = int((threes != tested.threes_in_all).sum())
    rows = tested.digits.shape[1]
    assert wrong == pytest.approx((100 * wrong_a / (2 * rows), 100 * wrong_b / rows))


@pytest.mark.parametrize("method", METHODS)
def test_resumed_after_a_stop_equals_unbroken(tmp_path, monkeypatch, method):
    config = _config(method=method, iterations=12, eval_every=4, checkpoint_every=3)
    run(RECIPE, config, tmp_path / "whole")
    advance = MultiNetworkTrainer.advance

    def pulled(self):
        if self.step == 7:
            raise InterruptedError
        advance(self)

    monkeypatch.setattr(MultiNetworkTrainer, "advance", pulled)
    with pytest.raises(InterruptedError):
        run(RECIPE, config, tmp_path / "broken")
    monkeypatch.undo()
    run(RECIPE, config, tmp_path / "broken", resume=True)
    whole, broken = (tmp_path / name for name in ("whole", "broken"))
    lines = (whole / "metrics.jsonl").read_text()
    assert (broken / "metrics.jsonl").read_text() == lines
    assert [json.loads(line)["step"] for line in lines.splitlines()] == [4, 8, 12]
    states = [
        torch.load(next((d / "checkpoint").glob("step-000000012-*")), weights_only=True)
        for d in (whole, broken)
    ]
    graphs = [state["run"]["trainer"]["graph"] for state in states]
    for graph in graphs:
        graph["_extra_state"] = unpacked(graph["_extra_state"])
    assert_close(dict(graphs[0]), dict(graphs[1]), rtol=0, atol=0)


def test_held_out_images_are_not_trained_on():
    trainer = _trainer(validation=100)
    assert {"validation_error_a", "validation_error_b"} <= trainer.evaluate().keys()
    whole = len(DATA.train_x)
    assert trainer._streams._batches.x.shape[0] == whole - 100
    assert "validation_error_a" not in _trainer().evaluate()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"batch_size": 400}, "--batch-size: 400 rows see 1600 digits in a step of 4 ticks"),
        ({"unroll": 20, "batch_size": 2}, "--unroll: a test takes 400 digits a row for T = 20"),
        ({"unroll": 0}, "--unroll"),
        ({"scale": -1}, "--scale"),
        ({"method": "bptt"}, "--method"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(values, says):
    with pytest.raises(UsageError, match=says):
        _trainer(**values)


def test_settings_of_another_recipe_are_refused():
    from synthgrad.lab.experiments.images import FeedForwardConfig

    with pytest.raises(UsageError, match="takes a MultiNetworkConfig, got a FeedForwardConfig"):
        RECIPE.settle(FeedForwardConfig())  # type: ignore[arg-type]


def test_b_learns_to_count_only_if_a_is_told_what_for():
    """Two ticks of two digits: how many of four were a three."""
    found = {}
    for method in ("none", "cdni"):
        trainer = _trainer(method=method, units=16, batch_size=32, learning_rate=0.005)
        for _ in range(100):
            trainer.advance()
        found[method] = trainer.evaluate()["test_error_b"]
    assert found["cdni"] < 0.6 * found["none"]
