"""What a user does wrongly is refused, by name, with what came and what was expected."""

import math
from typing import Any, cast

import pytest
import torch
from torch import nn

import synthgrad as sg
from synthgrad.errors import ArgumentError, LockingError, NonFiniteError, ShapeError
from synthgrad.feedback import Critic, Feedback, Linear, Zero
from tests.networks import Value
from tests.recurrent.cores import CORES, UNITS, awake, stream, unroll

pytestmark = pytest.mark.usefixtures("as_installed")


def _core():
    return CORES["GRUCell"]().double()


def _it(**options):
    return sg.RecurrentInterface(awake(Linear(UNITS).double()), name="it", **options)


def _chunk(core, it, state, **options):
    loss, state, messages, _ = unroll(core, *stream(2, 4), it.begin(state))
    return loss + it.end(state, messages[-1], **options), state


class _Silent(Feedback):
    def forward(self, h, context=None):
        return h


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"feedback": nn.Linear(3, 3)}, "feedback must be .*Feedback, got Linear"),
        ({"auxiliary": nn.Linear(3, 3)}, "auxiliary must be .*Feedback, got Linear"),
        ({"feedback": Critic(Value(3))}, "Critic is fitted to values of the loss"),
        ({"scale": -0.1}, "at least 0, got -0.1"),
        ({"scale": math.nan}, "at least 0, got nan"),
        ({"scale": "a lot"}, "at least 0, got 'a lot'"),
        ({"reduction": "none"}, '"mean" or "sum", got \'none\''),
        ({"feedback_into_core": True}, "needs last_core"),
        ({"last_core": 3, "feedback_into_core": True}, "must be a function, got 3"),
        ({"last_core": print}, "without an auxiliary model .*there is none"),
        (
            {"feedback": _Silent(), "last_core": print, "feedback_into_core": True},
            "fitted by regression, got _Silent",
        ),
    ],
)
def test_a_wrong_argument_is_refused(arguments, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        sg.RecurrentInterface(**({"feedback": Zero()} | arguments))


def test_the_order_of_calls():
    core, it = _core(), _it()
    message = torch.randn(4, UNITS).double()
    with pytest.raises(LockingError, match=r"interface 'it': end\(\) was called without begin"):
        it.end(core.initial(4), message)
    with pytest.raises(LockingError, match=r"interface 'it': between\(\) was called without begin"):
        it.between(core.initial(4), message, 0.5)
    it.begin(core.initial(4))
    with pytest.raises(LockingError, match=r"begin\(\) was called twice .*call reset\(\)"):
        it.begin(core.initial(4))


def test_a_scalar_that_is_not_in_the_loss():
    core, it = _core(), _it()
    _, state = _chunk(core, it, core.initial(4))
    loss, state, messages, _ = unroll(core, *stream(2, 4), it.begin(state))
    it.end(state, messages[-1])
    with pytest.raises(LockingError, match=r"'it': .*the scalar that end\(\) returned .*loss \+"):
        loss.backward()
    assert all(p.grad is None for p in it.parameters())


def test_a_state_that_no_error_reaches():
    core, it = _core(), _it()
    optimizer = torch.optim.SGD([*core.parameters(), *it.parameters()], lr=0.1)
    loss, state = _chunk(core, it, core.initial(4))
    loss.backward()
    optimizer.step()
    it.begin(state)
    loss, state, messages, _ = unroll(core, *stream(2, 4), core.initial(4))  # not what begin() gave
    (loss + it.end(state, messages[-1])).backward()
    with pytest.raises(LockingError, match="'it': no gradient reached it"):
        optimizer.step()


def test_a_state_that_was_cut_off():
    core, it = _core(), _it()
    it.begin(core.initial(4))
    with pytest.raises(LockingError, match=r"no tensor of the state given to end.*detached"):
        it.end(core.initial(4), torch.randn(4, UNITS).double())


@pytest.mark.parametrize("state", [None, (), 3, {"n": torch.arange(4)}])
def test_a_state_without_tensors(state):
    with pytest.raises(ShapeError, match=r"'it': a state is a floating-point tensor or a nest"):
        _it().begin(state)


@pytest.mark.parametrize("bad", [torch.zeros(4, 2, dtype=torch.complex64), torch.tensor(1.0)])
def test_a_state_that_is_no_batch_of_real_numbers(bad):
    with pytest.raises(ShapeError, match=r"real and have a batch dimension, got torch\."):
        _it().begin((torch.zeros(4, 2), bad))


def test_a_state_that_changes():
    core, it = _core(), _it()
    state = it.begin(core.initial(4))
    message, state = core(torch.randn(4, 3).double(), state)
    with pytest.raises(ShapeError, match=r"is \(\(4, 4\),\), but the chunk began with \(4, 4\)"):
        it.end((state,), message)
    it.end(state, message)
    with pytest.raises(ShapeError, match=r"is \(3, 4\), but the chunk before ended with \(4, 4\)"):
        it.begin(core.initial(3))
    it.begin(state)


@pytest.mark.parametrize(
    ("message", "came"),
    [
        ((torch.ones(2, 3),), "an object of type tuple"),
        (torch.ones(4, 4, dtype=torch.long), r"torch.int64 of shape \(4, 4\)"),
        (torch.ones(4), r"torch.float32 of shape \(4,\)"),
    ],
)
def test_a_wrong_message(message, came):
    core, it = _core(), _it()
    state = it.begin(core.initial(4))
    with pytest.raises(ShapeError, match=f"'it': a message is .*, got {came}"):
        it.end(state, message)


def test_a_message_of_another_batch_or_width():
    core, it = _core(), _it()
    state = it.begin(core.initial(4))
    with pytest.raises(ShapeError, match=r"'it': the batch has 5 examples, .*\(4, 4\)"):
        it.end(state, torch.randn(5, UNITS).double())
    with pytest.raises(ShapeError, match=r"'it': .*messages \(batch, 4\).*got \(4, 3\)"):
        it.end(state, torch.randn(4, 3).double())
    narrow = sg.RecurrentInterface(Linear(UNITS, out_features=3).double())
    state = narrow.begin(core.initial(4))
    with pytest.raises(ShapeError, match=r"has 4 numbers per example.*\(4, 4\).*returned \(4, 3\)"):
        narrow.end(state, torch.randn(4, UNITS).double())


@pytest.mark.parametrize(
    ("ended", "came"),
    [
        (torch.ones(4), r"torch.float32 of shape \(4,\)"),
        (torch.ones(3, dtype=torch.bool), r"torch.bool of shape \(3,\)"),
        ([True] * 4, "list"),
    ],
)
def test_a_wrong_mask(ended, came):
    core, it = _core(), _it()
    with pytest.raises(ShapeError, match=rf"'it': ended must be .*\(4,\), got {came}"):
        _chunk(core, it, core.initial(4), ended=ended)
    it.reset()
    _, state = _chunk(core, it, core.initial(4))
    with pytest.raises(ShapeError, match=rf"'it': ended must be .*\(4,\), got {came}"):
        it.begin(state, ended=ended)


def test_a_wrong_fresh_state():
    it, state, ended = _it(), torch.zeros(4, 4), torch.ones(4, dtype=torch.bool)
    with pytest.raises(ArgumentError, match=r"'it': fresh .*say which: ended=mask"):
        it.begin(state, fresh=0)
    with pytest.raises(ShapeError, match=r"the state, \(4, 4\); got \(\(4, 4\), \(4, 4\)\)"):
        it.begin(state, ended=ended, fresh=(state, state))
    with pytest.raises(ShapeError, match=r"\(2, 4, 4\) does not broadcast to the state's \(4, 4\)"):
        it.begin(state, ended=ended, fresh=torch.zeros(2, 4, 4))
    with pytest.raises(ShapeError, match=r"\(3, 4\) does not broadcast to the state's \(4, 4\)"):
        it.begin(state, ended=ended, fresh=torch.zeros(3, 4))
    with pytest.raises(ShapeError, match=r"'it': ended must be .*, got list"):
        it.begin(state, ended=cast(Any, [True] * 4), fresh=0)


def test_wrong_steps_and_inputs():
    core = _core()
    x = torch.randn(4, 3).double()
    message, state = core(x, core.initial(4))
    plain = _it()
    plain.begin(core.initial(4))
    with pytest.raises(ArgumentError, match="'it': steps are the auxiliary task's"):
        plain.end(state, message, steps=[message])
    with pytest.raises(ArgumentError, match="'it': inputs are those of last_core"):
        plain.end(state, message, inputs=(x,))
    it = _it(auxiliary=Linear(UNITS).double(), last_core=core.message)
    it.begin(core.initial(4))
    for inputs, came in ((None, "NoneType"), (x, "Tensor")):
        with pytest.raises(ArgumentError, match=rf"needs inputs=\(...\), a tuple .* got {came}"):
            it.end(state, message, inputs=inputs)
    inputs = (x, core.initial(4))
    with pytest.raises(ShapeError, match=r"like the last one, \(4, 4\), .*got 1 of \(4, 3\)"):
        it.end(state, message, steps=[x], inputs=inputs)
    it.end(state, message, steps=[message, message], inputs=inputs)
    it.begin(state)
    with pytest.raises(ShapeError, match=r"'it': .*before had 2 steps, this one 1\. Call reset"):
        it.end(state * 1, message, steps=[message], inputs=inputs)


def test_a_last_core_that_returns_something_else():
    core = _core()
    it = _it(auxiliary=Linear(UNITS).double(), last_core=lambda h: h[:2])
    message, state = core(torch.randn(4, 3).double(), it.begin(core.initial(4)))
    it.end(state, message, inputs=(message,))
    with pytest.raises(ShapeError, match=r"last_core must return .*\(4, 4\), .*returned \(2, 4\)"):
        it.begin(state)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_target_that_is_not_finite(bad):
    core, it = _core(), _it()
    _, state = _chunk(core, it, core.initial(4))
    loss, state = _chunk(core, it, state)
    with pytest.raises(NonFiniteError, match=r"'it': .* non-finite values .* of 16; .*Nothing"):
        (loss * bad).backward()
    assert all(p.grad is None for p in it.parameters())
    it.check_finite = False
    loss, state = _chunk(core, it, state)
    (loss * bad).backward()


def test_a_target_whose_square_overflows_is_finite():
    core = CORES["GRUCell"]()
    it = sg.RecurrentInterface(Zero())
    state = core.initial(4)
    for _ in range(2):
        xs, ys = stream(1, 4, torch.float32)
        message, state = core(xs[0], it.begin(state))
        (core.loss(message, ys[0]) * 1e25 + it.end(state, message)).backward()


def test_a_wrong_lambda():
    core, it = _core(), _it()
    state = it.begin(core.initial(4))
    with pytest.raises(ArgumentError, match=r"'it': lambda_ must lie in \[0, 1\], got 1.5"):
        it.between(state, torch.randn(4, UNITS).double(), 1.5)


def test_the_interface_is_named_by_its_model_otherwise():
    it = sg.RecurrentInterface(Linear(UNITS))
    with pytest.raises(ShapeError, match=r"recurrent interface Linear\(features=4, context=0\): "):
        it.begin(None)
    assert "scale=0.1" in repr(it)
