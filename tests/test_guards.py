import copy
import gc
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import LockingError
from synthgrad.feedback import Critic, Linear, Stale
from tests.networks import Value


class _Fork(nn.Module):
    """Two branches, each behind an interface; the loss may use one or both."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(2, 3), sg.Interface(Linear(3), name="left"))
        self.right = nn.Sequential(nn.Linear(2, 3), sg.Interface(Linear(3), name="right"))

    def forward(self, x):
        return self.left(x), self.right(x)


def _sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


X = torch.ones(4, 2)


def _answer(messages):
    torch.cat(messages).sum().backward()


def test_an_interface_that_no_error_reached_is_named_before_anything_is_updated():
    model = _Fork()
    optimizer = _sgd(model)
    model(X)[0].sum().backward()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LockingError, match="interface 'right': no gradient reached it"):
        optimizer.step()
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_loss_that_goes_around_the_interface_is_found():
    layer, interface = nn.Linear(2, 2), sg.Interface(Critic(Value(2)), name="around")
    optimizer = _sgd(nn.Sequential(layer, interface))
    h = layer(X)
    interface(h)
    h.sum().backward()
    with pytest.raises(LockingError, match="interface 'around': no gradient reached it"):
        optimizer.step()


def test_an_error_of_zero_is_an_error():
    model = _Fork()
    left, right = model(X)
    (left.sum() + 0 * right.sum()).backward()
    _sgd(model).step()


def test_it_is_found_at_a_later_step_too():
    model = _Fork()
    optimizer = _sgd(model)
    _answer(model(X))
    optimizer.step()
    model(X)[0].sum().backward()
    with pytest.raises(LockingError, match="'right'"):
        optimizer.step()


def test_once_reported_it_does_not_stand_in_the_way():
    model = _Fork()
    optimizer = _sgd(model)
    model(X)[0].sum().backward()
    with pytest.raises(LockingError):
        optimizer.step()
    optimizer.step()  # nothing was sent since
    _answer(model(X))
    optimizer.step()


def test_an_optimizer_of_a_part_of_the_feedback_model_is_enough():
    model = _Fork()
    bias = model.right[1].get_parameter("feedback.first.bias")
    model(X)[0].sum().backward()
    with pytest.raises(LockingError, match="'right'"):
        torch.optim.SGD([bias], lr=0.1).step()


def test_gradients_may_be_accumulated():
    model = _Fork()
    optimizer = _sgd(model)
    for _ in range(3):
        _answer(model(X))
    for h in model(X):  # and from the parts of one forward pass, one by one
        h.sum().backward()
    optimizer.step()


def test_a_forward_pass_may_stay_unused_if_another_is_not():
    model = _Fork()
    optimizer = _sgd(model)
    for _ in range(2):
        model(X)  # a look at the training loss, say, without no_grad
        _answer(model(X))
        model(X)
        optimizer.step()


def test_an_optimizer_may_run_the_model_itself():
    model = _Fork()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        left, right = model(X)
        loss = (left - right).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)


def test_evaluation_expects_nothing():
    model = _Fork()
    with torch.no_grad():
        model(X)
    model.eval()(X)
    _sgd(model).step()


def test_an_optimizer_that_does_not_own_the_feedback_model_may_step():
    model = _Fork()
    senders = torch.optim.SGD([*model.left[0].parameters(), *model.right[0].parameters()], lr=0.1)
    owner = _sgd(model)
    model(X)[0].sum().backward()
    senders.step()
    _sgd(nn.Linear(2, 2)).step()
    with pytest.raises(LockingError, match="'right'"):
        owner.step()


def test_a_model_that_only_remembers_is_not_expected_to_hear_back():
    model = nn.Sequential(nn.Linear(2, 2), sg.Interface(Stale(0.5)), nn.Linear(2, 2))
    model(X)
    _sgd(model).step()


def test_an_interface_that_is_gone_is_forgotten():
    kept, gone = _Fork(), _Fork()
    both = torch.optim.SGD([*kept.parameters(), *gone.parameters()], lr=0.1)
    gone(X)
    _answer(kept(X))
    del gone
    gc.collect()
    both.step()


def test_each_thread_answers_for_its_own_messages():
    model, problems = _Fork(), []
    ours, theirs = _sgd(model), _sgd(_Fork())
    model(X)[0].sum().backward()

    def step():
        try:
            theirs.step()
            ours.step()  # this thread sent nothing
        except LockingError as problem:
            problems.append(problem)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert not problems
    with pytest.raises(LockingError, match="'right'"):
        ours.step()


def test_waiting_for_an_error_keeps_nothing_alive():
    model = _Fork()
    gone = weakref.ref(model.right[1])
    model(X)[0].sum().backward()
    del model
    gc.collect()
    assert gone() is None
