"""Parts that wait for nobody: the laws, who moves, and what is refused."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ArgumentError, ContextError, LockingError, ShapeError
from synthgrad.feedback import MLP, Linear, Regression
from synthgrad.inputs import SyntheticInput
from tests.networks import FanOut, awake, chain, gradients, hidden, squares

adam = partial(Adam, lr=0.01)
still = partial(SGD, lr=0.0)
NAMES = ["0", "1", "2", "output"]


class _Exact(Regression):
    """Knows the message: it runs a copy of what lies below."""

    def __init__(self, below: nn.Sequential) -> None:
        super().__init__()
        self.below = below

    def forward(self, h: Tensor, context: Any = None) -> Tensor:
        with torch.no_grad():
            return self.below(h)


def _model(inputs: Callable[[Tensor, Tensor], Regression] | None = None) -> nn.Sequential:
    model, x = chain([4, 5, 5, 5, 3]), torch.randn(4, 4).double()
    sg.decouple(
        model,
        hidden(model),
        "linear",
        context=3,
        example_inputs=x,
        inputs=inputs or (lambda x, h: SyntheticInput(x.shape[1], h.shape[1], (6,))),
    )
    awake(model)
    return model


def _exact() -> nn.Sequential:
    model = _model(lambda x, h: Linear(4, out_features=5))
    plain = copy.deepcopy(model)
    sg.recouple(plain)
    for position in range(3):
        below = nn.Sequential(*list(plain)[: position + 1]).requires_grad_(False)
        model.get_submodule(f"{position}.interface").inputs = _Exact(below)
    return model


def _batch():
    y = torch.randint(3, (6,))
    return torch.randn(6, 4).double(), squares(nn.functional.one_hot(y, 3).double()), y


@given(seed=st.integers(0, 99), order=st.sampled_from(["random", "forward"]))
def test_exact_synthetic_inputs_give_the_true_pass_and_the_methods_gradients(seed, order):
    torch.manual_seed(seed)
    model = _exact()
    twin = copy.deepcopy(model)
    schedule = sg.FullyUnlocked(model, still, order=order)
    other = sg.Unlocked(twin, still)
    for _ in range(2):
        batch = _batch()
        assert_close(schedule.step(*batch), other.step(*batch))
        assert_close(gradients(model), gradients(twin))
    assert gradients(model)


@given(free=st.sets(st.sampled_from(NAMES)), seed=st.integers(0, 99))
def test_who_is_busy_is_not_touched(free, seed):
    torch.manual_seed(seed)
    model = _model()
    schedule = sg.FullyUnlocked(model, adam, {name: float(name in free) for name in NAMES})
    before = copy.deepcopy(model.state_dict())
    ran = []
    for position, child in enumerate(model):
        first = child[0] if isinstance(child, nn.Sequential) else child
        first.register_forward_hook(lambda *_, name=NAMES[position]: ran.append(name))
    loss = schedule.step(*_batch())
    assert (loss is not None) == ("output" in free)
    assert sorted(ran) == sorted(free)
    moved = {
        name.rsplit(".", 1)[0].split(".")[0]
        + (".feedback" if "feedback" in name else ".input" if "inputs" in name else "")
        for name, value in model.state_dict().items()
        if "extra_state" not in name
        and "running" not in name
        and "num_batches" not in name
        and not torch.equal(value, before[name])
    }
    expected = {"3" if name == "output" else name for name in free}
    for below, above in pairwise(NAMES):
        expected |= {f"{below}.feedback"} if above in free else set()
        expected |= {f"{below}.input"} if {above, below} <= free else set()
    assert moved == expected
    assert schedule.updates == {name: int(name in free) for name in NAMES}


def test_synthetic_inputs_are_fitted_to_what_was_sent():
    torch.manual_seed(0)
    model = _model()
    schedule = sg.FullyUnlocked(model, still, feedback_optimizer=partial(Adam, lr=0.03))
    x, loss_fn, y = _batch()
    for _ in range(150):
        schedule.step(x, loss_fn, y)
    # The layers stand still, so the messages do too; each part sends what it makes of its input.
    taken = x
    for position in range(3):
        inputs = model.get_submodule(f"{position}.interface.inputs")
        with torch.no_grad():
            sent, taken = model[position](taken), inputs(x)
        assert (taken - sent).square().mean() < 0.05 * sent.square().mean()


def test_the_model_that_comes_out_is_plain():
    model = _model()
    schedule = sg.FullyUnlocked(model, adam)
    schedule.step(*_batch())
    x = torch.randn(5, 4).double()
    joined = model.eval()(x)
    plain = sg.recouple(model)
    assert_close(plain(x), joined, rtol=0, atol=0)
    assert set(plain.state_dict()) == set(chain([4, 5, 5, 5, 3]).state_dict())


def test_a_resumed_run_goes_on_bit_for_bit():
    generator = torch.Generator()

    def run(steps, schedule):
        torch.manual_seed(1)
        generator.manual_seed(steps)
        for _ in range(steps):
            schedule.step(*_batch())

    model = _model()
    schedule = sg.FullyUnlocked(model, adam, 0.5, generator=generator)
    run(5, schedule)
    twin = copy.deepcopy(model)
    other = sg.FullyUnlocked(twin, adam, 0.5, generator=generator)
    other.load_state_dict(copy.deepcopy(schedule.state_dict()))
    run(6, schedule)
    run(6, other)
    assert other.updates == schedule.updates
    assert_close(twin.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_it_learns():
    torch.manual_seed(0)
    x = torch.randn(256, 4)
    y = (x[:, 0] * x[:, 1] > 0).long()
    layers = [nn.Sequential(nn.Linear(a, 32), nn.BatchNorm1d(32), nn.ReLU()) for a in (4, 32)]
    model = nn.Sequential(*layers, nn.Linear(32, 2))
    sg.decouple(
        model,
        ["0", "1"],
        "linear",
        context=2,
        example_inputs=x,
        inputs=lambda x, h: SyntheticInput(x.shape[1], h.shape[1], (64,)),
    )
    schedule = sg.FullyUnlocked(model, partial(Adam, lr=0.02), 0.9)
    for _ in range(300):
        schedule.step(x, lambda output: nn.functional.cross_entropy(output, y), y)
    wrong = (model.eval()(x).argmax(dim=1) != y).float().mean()
    assert wrong < 0.2  # guessing: 0.5
    assert all(250 < count < 290 for count in schedule.updates.values())


def test_what_cannot_run_alone_is_refused():
    x = torch.randn(2, 4).double()
    with pytest.raises(LockingError, match=r"only in an nn\.Sequential, got FanOut"):
        sg.FullyUnlocked(FanOut(4, 5, 3), adam)
    with pytest.raises(ArgumentError, match=r"interface '0' has no synthetic input model; give"):
        sg.FullyUnlocked(sg.decouple(chain([4, 5, 3]), "0", "linear"), adam)
    with pytest.raises(ArgumentError, match=r"p_update names \['7'\], the model's parts are"):
        sg.FullyUnlocked(_model(), adam, {"7": 0.1})
    with pytest.raises(LockingError, match="eval mode"):
        sg.FullyUnlocked(_model().eval(), adam).step(*_batch())
    shared = MLP(5, (6,), 3).double()
    model = chain([4, 5, 5, 3])
    sg.decouple(model, ["0", "1"], lambda h: shared, example_inputs=x, inputs=_input)
    with pytest.raises(LockingError, match="feedback model of interface '1' is shared"):
        sg.FullyUnlocked(model, adam)
    tied = chain([4, 4, 4, 3])
    tied[1][0].weight = tied[0][0].weight  # type: ignore[index]
    sg.decouple(tied, ["0", "1"], "linear", example_inputs=x, inputs=_input)
    with pytest.raises(LockingError, match="'0' and '1' share a parameter"):
        sg.FullyUnlocked(tied, adam)
    nested = nn.Sequential(FanOut(4, 5, 4).double(), nn.Linear(4, 3).double())
    sg.decouple(nested, ["0.first", "0.second"], "linear", example_inputs=x, inputs=_input)
    with pytest.raises(LockingError, match="2 interfaces lie inside one FanOut"):
        sg.FullyUnlocked(nested, adam)


def test_an_interface_in_the_middle_of_a_part_is_refused():
    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4).double()

        def forward(self, x):
            return self.inner(x).tanh()

    model = nn.Sequential(Middle(), nn.Linear(4, 3).double())
    x = torch.randn(2, 4).double()
    sg.decouple(model, "0.inner", "linear", context=3, example_inputs=x, inputs=_input)
    with pytest.raises(LockingError, match=r"interface '0\.inner' .* has to come last"):
        sg.FullyUnlocked(model, adam).step(*_batch())


@pytest.mark.parametrize(
    ("inputs", "features", "complaint"),
    [
        (4, 6, r"interface '0': its synthetic input model predicts \(4, 6\), .* is \(4, 5\)"),
        (3, 5, r"interface '0', its synthetic input model: .* expects .* 3 values, got \(8, 4\)"),
    ],
)
def test_a_synthetic_input_of_another_shape_is_refused(inputs, features, complaint, as_installed):
    with pytest.raises(ShapeError, match=complaint):
        _model(lambda x, h: SyntheticInput(inputs, features))


def test_an_error_in_a_synthetic_input_is_not_blamed_on_another_model(as_installed):
    x, loss_fn, y = _batch()
    wide = _model(lambda x, h: SyntheticInput(4, 6, context=3))  # what it needs comes later
    with pytest.raises(ShapeError, match=r"1', the message that its synthetic input model .* 6"):
        sg.FullyUnlocked(wide, adam, {"0": 0, "1": 0, "output": 0}).step(x, loss_fn, y)
    conditional = _model(lambda x, h: SyntheticInput(4, 5, context=3))
    with pytest.raises(ContextError, match=r"interface '.', its synthetic input model: "):
        sg.FullyUnlocked(conditional, adam, {"0": 0}).step(x, loss_fn)


def _input(x: Tensor, h: Tensor) -> Regression:
    return SyntheticInput(x.shape[1], h.shape[1])


def test_each_kind_of_model_has_the_optimiser_that_was_asked_for():
    def rates(**optimizers):
        made = sg.schedule.FullyUnlocked(_model(), still, **optimizers).optimizers
        return {name: made[name].param_groups[0]["lr"] for name in ("0", "0 feedback", "0 input")}

    assert rates() == {"0": 0.0, "0 feedback": 0.0, "0 input": 0.0}
    two, three = partial(SGD, lr=2.0), partial(SGD, lr=3.0)
    assert rates(feedback_optimizer=two) == {"0": 0.0, "0 feedback": 2.0, "0 input": 2.0}
    assert rates(input_optimizer=three) == {"0": 0.0, "0 feedback": 0.0, "0 input": 3.0}
    both = rates(feedback_optimizer=two, input_optimizer=three)
    assert both == {"0": 0.0, "0 feedback": 2.0, "0 input": 3.0}
