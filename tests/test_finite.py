"""Errors that are not _finite, noted on the device and reported afterwards."""

import math

import pytest
import torch

import synthgrad as sg
from synthgrad import _finite, interface
from synthgrad.errors import ArgumentError, LockingError, NonFiniteError
from synthgrad.feedback import Linear, Stale
from tests.tape import Tape

BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])


def _send(it: sg.Interface, delta: torch.Tensor) -> None:
    h = torch.randn(delta.shape, requires_grad=True).to(delta.dtype)
    it(h).backward(delta)


@BAD
@pytest.mark.parametrize("place", [(0, 0), (1, 2), (3, 4)])
def test_what_was_noted_is_reported_once_and_named(bad, place):
    it = sg.Interface(Linear(5), name="hidden", check_finite="later")
    delta = torch.randn(4, 5)
    _send(it, delta)
    it.check_noted()
    delta[place] = bad
    _send(it, delta)
    _send(it, torch.randn(4, 5))
    with pytest.raises(NonFiniteError, match=r"interface 'hidden': .* by step 0 held NaN or inf"):
        it.check_noted()
    it.check_noted()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_largest_finite_errors_are_no_mistake(dtype):
    it = sg.Interface(Linear(5).to(dtype), check_finite="later")
    _send(it, torch.full((4, 5), torch.finfo(dtype).max, dtype=dtype))
    it.check_noted()


def test_nothing_is_noted_where_nothing_is_checked():
    it = sg.Interface(Linear(5), check_finite=False)
    _send(it, torch.full((4, 5), math.nan))
    it.check_noted()


@BAD
def test_while_a_graph_is_captured_errors_are_noted_without_looking(bad, monkeypatch):
    it = sg.Interface(Linear(5), name="hidden")
    delta = torch.randn(4, 5)
    delta[2, 2] = bad
    it._noted.prepare(delta)  # as a step on a GPU does
    for module in (interface, _finite):
        monkeypatch.setattr(module, "capturing", lambda _: True)
    with Tape():  # which fails where a value is read
        _send(it, delta)
    with pytest.raises(NonFiniteError, match="interface 'hidden'"):
        it.check_noted()


def test_a_capture_before_any_step_is_refused(monkeypatch):
    it = sg.Interface(Linear(5), name="hidden")
    for module in (interface, _finite):
        monkeypatch.setattr(module, "capturing", lambda _: True)
    with pytest.raises(LockingError, match=r"interface 'hidden': .*run a step before a CUDA"):
        _send(it, torch.randn(4, 5))


@pytest.mark.usefixtures("as_installed")
def test_a_wrong_wish_is_refused():
    with pytest.raises(ArgumentError, match="bool or \"later\", got 'sometimes'"):
        sg.Interface(Linear(5), check_finite="sometimes")  # type: ignore[arg-type]


def test_a_stale_average_stays_where_it_is_and_errors_on_their_way_stay_as_they_were():
    stale = Stale(0.5)
    it = sg.Interface(stale, reduction="sum")
    _send(it, torch.ones(4, 5))
    place = stale.average.data_ptr()
    senders = [torch.randn(4, 5, requires_grad=True) for _ in range(2)]
    first, second = (it(h) for h in senders)  # both are promised the average as it is now
    first.backward(torch.full((4, 5), 3.0))
    second.backward(torch.full((4, 5), 7.0))
    for h in senders:
        assert h.grad is not None
        assert torch.equal(h.grad, torch.full((4, 5), 0.5))
    assert stale.average.data_ptr() == place
    assert torch.equal(stale.average, torch.full((5,), 0.5 * (0.5 * 0.5 + 1.5) + 3.5))
