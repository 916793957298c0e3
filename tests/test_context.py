import threading

import pytest
import torch
from torch import nn

import synthgrad as sg
from synthgrad.context import current_context, derived
from synthgrad.feedback import Feedback


class _Echo(Feedback):
    """Keeps the contexts that it was called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, h, context=None):
        self.seen.append(context)
        return torch.zeros_like(h)


def _deep(echo):
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh(), sg.Interface(echo)))


def test_it_reaches_an_interface_deep_inside_a_sequential():
    echo, c = _Echo(), object()
    with sg.context(c):
        _deep(echo)(torch.ones(1, 2))
    assert echo.seen == [c]


def test_an_argument_wins_over_it():
    echo, ours = _Echo(), object()
    with sg.context(object()):
        sg.Interface(echo)(torch.ones(1, 2), ours)
        sg.Interface(echo)(torch.ones(1, 2), context=ours)
    assert echo.seen == [ours, ours]


def test_blocks_nest_and_the_innermost_counts():
    assert current_context() is None
    with sg.context("outer"):
        with sg.context("inner"):
            assert current_context() == "inner"
            with sg.context(None):
                assert current_context() is None
            assert current_context() == "inner"
        assert current_context() == "outer"
    assert current_context() is None


def test_an_exception_leaves_no_trace():
    with sg.context("outer"):
        with pytest.raises(ZeroDivisionError), sg.context("inner"):
            raise ZeroDivisionError
        assert current_context() == "outer"
    assert current_context() is None


def test_each_thread_has_its_own():
    found, both_inside = {}, threading.Barrier(2)

    def work(name):
        found[name, "before"] = current_context()
        with sg.context(name):
            both_inside.wait(timeout=10)
            found[name] = current_context()
            both_inside.wait(timeout=10)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    with sg.context("main"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert current_context() == "main"
    assert found == {("a", "before"): None, ("b", "before"): None, "a": "a", "b": "b"}


def test_only_the_forward_pass_needs_it():
    model = nn.Sequential(nn.Linear(2, 2), sg.Interface(sg.feedback.Linear(2, context=3)))
    with sg.context(torch.tensor([0, 2])):
        loss = model(torch.ones(2, 2)).sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_what_derives_from_it_is_made_once_a_block():
    labels, made = torch.tensor([1, 0]), []

    def make(c, key):
        made.append(len(made))
        return made[-1]

    assert [derived(labels, make, "key") for _ in range(2)] == [0, 1]  # outside: each time
    for block in (2, 4):
        with sg.context(labels):
            assert [derived(labels, make, "key") for _ in range(2)] == [block, block]
            assert derived(labels, make, "other key") == block + 1
    with sg.context(labels):
        assert derived(labels, make, "key") == 6
        assert derived(labels.clone(), make, "key") == 7  # not the context in force


@pytest.mark.parametrize("inference", [False, True])
def test_labels_that_were_rewritten_in_place_are_other_labels(inference):
    model = sg.feedback.Linear(2, context=3)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    found = []
    with torch.inference_mode(inference):
        labels = torch.tensor([0, 2])
        with sg.context(labels):
            for number in (1, 2, 2):
                labels.fill_(number)
                found.append(model(torch.ones(2, 2), current_context()).clone())
        with sg.context(labels):
            expected = model(torch.ones(2, 2), current_context())
    assert torch.equal(found[1], expected)
    assert torch.equal(found[2], expected)
    assert not torch.equal(found[0], expected)


def test_no_error_goes_into_a_context():
    rows = torch.randn(3, 2, requires_grad=True)
    feedback = sg.feedback.Linear(4, context=2)
    with sg.context(rows * 1):
        sg.Interface(feedback)(torch.randn(3, 4, requires_grad=True)).sum().backward()
    assert rows.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in feedback.parameters())
