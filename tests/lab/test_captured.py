"""A recorded and replayed training step equals a plain one to the last bit, on any of the methods.

The recorder is the tape, which stands in for CUDA graphs on a CPU. That it records at all says that
the step reads nothing on the host.
"""

import copy

import pytest
import torch

from synthgrad.decouple import named_interfaces
from synthgrad.errors import LockingError, NonFiniteError, SynthgradWarning
from synthgrad.lab.data import DataSet
from synthgrad.lab.experiments import images as trainer_module
from synthgrad.lab.experiments.captured import WARM_UP
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import ImageTrainer
from tests.tape import Tape, TapeRecorder

STEPS = 12  # the rate falls at 8 and at 10
SETTINGS = {"iterations": STEPS, "batch_size": 16, "learning_rate": 1e-2}
FCN = {"units": 12, "feedback_hidden": (8,), **SETTINGS}
CNN = {"units": 4, "feedback_hidden": (3,), **SETTINGS}
CASES = {
    "backprop": ("mnist-fcn", {"method": "backprop", **FCN}),
    "none": ("mnist-fcn", {"method": "none", **FCN}),
    "dni, warm-up": ("mnist-fcn", {"method": "dni", "warmup": 6, **FCN}),
    "cdni": ("mnist-fcn", {"method": "cdni", **FCN}),
    "cdni, linear": ("mnist-fcn", {"method": "cdni", **FCN, "feedback_hidden": ()}),
    "cdni, half": ("mnist-fcn", {"method": "cdni", "lambda_": 0.5, **FCN}),
    "cdni, other rate": ("mnist-fcn", {"method": "cdni", "feedback_learning_rate": 3e-2, **FCN}),
    "cdni, bfloat16": ("mnist-fcn", {"method": "cdni", "precision": "bfloat16", **FCN}),
    "stale": ("mnist-fcn", {"method": "stale", **FCN}),
    "backprop, cnn": ("cifar10-cnn", {"method": "backprop", **CNN}),
    "none, cnn": ("cifar10-cnn", {"method": "none", **CNN}),
    "dni, cnn": ("cifar10-cnn", {"method": "dni", "warmup": 0, **CNN}),
    "cdni, cnn": ("cifar10-cnn", {"method": "cdni", **CNN}),
    "cdni, cnn, bfloat16": ("cifar10-cnn", {"method": "cdni", "precision": "bfloat16", **CNN}),
    "stale, cnn": ("cifar10-cnn", {"method": "stale", **CNN}),
}
IN_LINE = {f"{name}, in line": case for name, case in CASES.items()}
UNLOCKED = {
    f"{name}, unlocked": (recipe, settings | {"unlock": "update"})
    for name, (recipe, settings) in CASES.items()
    if not (settings.get("lambda_") or settings.get("warmup") or settings["method"] == "backprop")
}
EVERY = IN_LINE | UNLOCKED
every = pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)


def _data(recipe: str) -> DataSet:
    generator = torch.Generator().manual_seed(1)
    shape = (3, 8, 8) if recipe.endswith("cnn") else (1, 6, 6)
    x = torch.rand(100, *shape, generator=generator)
    y = torch.randint(10, (100,), generator=generator)
    return DataSet("any", x, y, x[:30], y[:30], classes=10)


def _trainer(case, recorder=None, monkeypatch=None) -> ImageTrainer:
    name, settings = case
    if monkeypatch is not None:
        monkeypatch.setattr(trainer_module, "recorder_for", lambda *_: recorder)
    recipe = RECIPES[name]
    return recipe.build(
        recipe.settle(recipe.defaults.changed(**settings)), _data(name), torch.device("cpu")
    )


def _advance(trainer: ImageTrainer, steps: int) -> None:
    for _ in range(steps):
        trainer.advance()


def _same(one, other) -> bool:
    """Whether two states hold the same tensors, to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


@every
def test_replayed_equals_plain(case, monkeypatch):
    plain = _trainer(case)
    _advance(plain, STEPS)
    recorder = TapeRecorder()
    replayed = _trainer(case, recorder, monkeypatch)
    _advance(replayed, STEPS)
    changes = 2 if case[1].get("warmup") else 1
    assert (recorder.warmed, recorder.recorded) == (changes * WARM_UP, changes)
    assert recorder.played == STEPS - changes * WARM_UP
    assert _same(replayed.state_dict(), plain.state_dict())
    assert replayed.evaluate() == plain.evaluate()
    assert all(interface.step == STEPS for interface in named_interfaces(replayed.model))


@every
def test_evaluations_between_replays_change_nothing(case, monkeypatch):
    plain, replayed = _trainer(case), _trainer(case, TapeRecorder(), monkeypatch)
    for _ in range(STEPS // 3):
        _advance(plain, 3)
        _advance(replayed, 3)
        assert replayed.evaluate() == plain.evaluate()
    assert _same(replayed.state_dict(), plain.state_dict())


@every
def test_a_resumed_run_equals_an_unbroken_one(case, monkeypatch):
    whole = _trainer(case, TapeRecorder(), monkeypatch)
    _advance(whole, 5)
    state = copy.deepcopy(whole.state_dict())
    _advance(whole, STEPS - 5)
    broken = _trainer(case, TapeRecorder(), monkeypatch)
    _advance(broken, 7)  # recorded already: the recording must not outlive what it works on
    for _ in range(2):
        broken.load_state_dict(copy.deepcopy(state))
        _advance(broken, STEPS - 5)
        assert _same(broken.state_dict(), whole.state_dict())


class _Failing(TapeRecorder):
    """Gives up in the middle of a recording, where Python has counted and nothing is done."""

    def record(self, work):
        self.recorded += 1
        tape = _Ending()
        try:
            with tape:
                work()
        finally:
            tape.rewind()
        raise AssertionError("nothing was updated")


class _Ending(Tape):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten._fused_adam_:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize("name", ["cdni, in line", "cdni, unlocked", "stale, in line"])
def test_where_it_cannot_be_recorded_it_says_so_once_and_goes_on(name, monkeypatch):
    plain = _trainer(EVERY[name])
    _advance(plain, STEPS)
    recorder = _Failing()
    fallen = _trainer(EVERY[name], recorder, monkeypatch)
    _advance(fallen, WARM_UP)
    says = r"as a CUDA graph.*: operation not permitted$"
    with pytest.warns(SynthgradWarning, match=says) as said:
        _advance(fallen, STEPS - WARM_UP)
    assert len(said) == 1
    assert recorder.recorded == 1
    assert _same(fallen.state_dict(), plain.state_dict())


@pytest.mark.parametrize("poisoned", [1, WARM_UP + 2])
@pytest.mark.parametrize("look", ["evaluate", "state_dict"])
def test_an_error_that_is_not_finite_is_reported_at_the_next_look(poisoned, look, monkeypatch):
    trainer = _trainer(EVERY["cdni, in line"], TapeRecorder(), monkeypatch)
    _advance(trainer, poisoned)
    trainer.state_dict()
    trainer.train[0].fill_(torch.nan)
    trainer.advance()
    with pytest.raises(NonFiniteError, match=r"interface 'hidden1': .* held NaN or infinity"):
        getattr(trainer, look)()


def test_an_error_of_ours_is_not_taken_for_a_failed_recording(monkeypatch):
    class Refusing(TapeRecorder):
        def record(self, work):
            raise LockingError("no gradient reached it")

    trainer = _trainer(EVERY["cdni, in line"], Refusing(), monkeypatch)
    _advance(trainer, WARM_UP)
    with pytest.raises(LockingError, match="no gradient reached it"):
        trainer.advance()
