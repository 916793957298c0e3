import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ContextError, LockingError, NonFiniteError
from synthgrad.feedback import Linear
from tests.networks import awake, chain, squares

X, Y = torch.randn(6, 4), torch.randn(6, 4)


class _Net(nn.Module):
    """Two layers and an interface after each; subclasses do with them what they should not."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(4, 4) for _ in range(3))
        self.one = sg.Interface(Linear(4), name="one")
        self.two = sg.Interface(Linear(4), name="two")

    def forward(self, x):
        return self.last(self.two(self.second(self.one(self.first(x)))))


class _Skip(_Net):
    def forward(self, x):
        h = self.first(x).tanh()
        return self.last(self.two(self.second(self.one(h)) + h))


class _LongSkip(_Net):
    def forward(self, x):
        h = self.first(x)
        return self.last(self.two(self.second(self.one(h))) + h)


class _SkipOfWhatFollows(_Net):
    def forward(self, x):
        h = self.one(self.first(x)).tanh()
        return self.last(self.two(self.second(h)) + h)


class _Shared(_Net):
    def forward(self, x):
        return self.first(self.two(self.second(self.one(self.first(x)))))


class _Unused(_Net):
    def forward(self, x):
        h = self.one(self.first(x))
        self.two(self.second(h))
        return self.last(h)


class _NeverRuns(_Net):
    def forward(self, x):
        return self.last(self.one(self.first(x)))


class _Twice(_Net):
    def forward(self, x):
        return self.last(self.two(self.second(self.one(self.first(self.one(self.first(x)))))))


def _refused(model, error, match, context=None):
    """Refused before anything is updated."""
    before = copy.deepcopy(model.state_dict())
    schedule = sg.Unlocked(model, partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(error, match=match):
        schedule.step(X, squares(Y), context)
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not schedule.optimizers


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (_Skip, r"around the cut at 'one': Tanh.*'first.(weight|bias)'.*segment ending at 'two'"),
        (_LongSkip, r"around the cut at 'one': .*'first.(weight|bias)'.*ending at 'output'"),
        (_SkipOfWhatFollows, r"around the cut at 'two': Tanh.*earlier message.*'output'"),
        (_Shared, r"'one' and 'output' share the parameter 'first\.(weight|bias)'"),
        (_Unused, r"interface 'two': no gradient reaches it.*does not depend on its message"),
        (_NeverRuns, r"interface 'two': no gradient reaches it"),
        (_Twice, r"interface 'one' runs more than once in a forward pass"),
    ],
)
def test_a_graph_that_does_not_split_at_its_interfaces(net, match):
    _refused(net(), LockingError, match)


@pytest.mark.parametrize("lambda_", [0.5, 1.0, lambda step: 1e-9])
def test_a_lambda_that_would_have_to_wait(lambda_):
    model = _Net()
    model.one.lambda_ = lambda_
    with pytest.raises(LockingError, match=r"interface 'one': lambda_ is .* at step 0.*lambda_=0"):
        sg.Unlocked(model, partial(torch.optim.SGD, lr=0.1)).step(X, squares(Y))


def test_eval_mode():
    _refused(_Net().eval(), LockingError, r"eval mode; call model\.train\(\)")


def test_a_missing_context_even_if_only_the_last_interface_wants_one():
    model = _Net()
    model.two = sg.Interface(Linear(4, context=3), name="two")
    _refused(model, ContextError, "interface 'two': .*no context")
    _refused(model, ContextError, r"interface 'two': .*\[0, 3\)", torch.full((6,), 3))


def test_a_target_that_is_not_finite():
    model = _Net()
    awake(model)
    before = copy.deepcopy(model.two.state_dict())
    schedule = sg.Unlocked(model, partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(NonFiniteError, match="interface 'two'"):
        schedule.step(X, lambda output: (output - output.detach()).abs().sqrt().sum())
    assert_close(model.two.state_dict(), before, rtol=0, atol=0)


class _Moody(_Net):
    """Runs another way each time."""

    how = "as usual"

    def forward(self, x):
        h = self.one(self.first(x))
        if self.how == "once more":
            h = self.one(h)
        if self.how == "ignored":
            h = h.detach()
        h = self.second(h)
        return self.last(h if self.how == "left out" else self.two(h))


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("once more", "interface 'one' ran twice in this step"),
        ("ignored", "interface 'one': no gradient reached it in this step"),
        ("left out", "interface 'two': no gradient reached it in this step"),
    ],
)
def test_a_later_step_that_goes_another_way_than_the_first(how, match):
    model = _Moody()
    schedule = sg.Unlocked(model, partial(torch.optim.SGD, lr=0.1))
    schedule.step(X, squares(Y))
    model.how = how
    with pytest.raises(LockingError, match=match):
        schedule.step(X, squares(Y))
    model.how = "as usual"
    schedule.step(X, squares(Y))


def test_an_interface_that_the_first_step_did_not_have():
    model = chain([4, 4, 4, 4], torch.float32)
    sg.decouple(model, "0", "linear")
    schedule = sg.Unlocked(model, partial(torch.optim.SGD, lr=0.1))
    schedule.step(X, squares(Y))
    sg.decouple(model, "1", "linear")
    with pytest.raises(LockingError, match=r"1\.interface\.feedback.*make a new schedule"):
        schedule.step(X, squares(Y))
