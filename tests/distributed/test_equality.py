"""Synchronous stages compute what one process computes, to the last bit."""

from copy import deepcopy
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.distributed import Options
from tests.distributed.threads import Pipeline, build

STEPS = 12


def _batches(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 10, generator=generator)
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


def _hidden(inputs, units):
    return nn.Sequential(nn.Linear(inputs, units), nn.BatchNorm1d(units), nn.ReLU())


def _feedback(method, units):
    context = 4 if method == "cdni" else 0
    if method == "linear":
        return sg.feedback.Linear(units)
    made = sg.feedback.MLP(units, hidden=(20,), context=context)
    last = made.rest[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=0.1)  # so that the first prediction counts
    return made


@pytest.mark.parametrize("method", ["linear", "dni", "cdni", "stale", "none"])
@pytest.mark.parametrize("count", [2, 3])
def test_two_or_three_processes_are_unlocked(method, count):
    torch.manual_seed(3)
    widths = [10, *[12, 7][: count - 1]]
    hidden = [_hidden(a, b) for a, b in pairwise(widths)]
    segments = [*hidden, nn.Linear(widths[-1], 4)]
    special = {"stale": sg.feedback.Stale(0.5), "none": sg.feedback.Zero()}
    feedbacks = [deepcopy(special.get(method) or _feedback(method, w)) for w in widths[1:]]
    start = deepcopy((segments, feedbacks))
    optimizer = partial(torch.optim.Adam, lr=1e-2)

    together = [p for s, f in zip(segments, feedbacks, strict=False) for p in (s, sg.Interface(f))]
    unlocked = sg.Unlocked(nn.Sequential(*together, segments[-1]), optimizer)
    for step in range(STEPS):
        x, y = _batches(step)
        unlocked.step(x, lambda output, y=y: F.cross_entropy(output, y), y)

    apart, others = start
    stages = build(
        apart,
        others,
        options=Options(window=1, synchronous=True),
        batches=_batches,
        loss_fn=F.cross_entropy,
        optimizer=optimizer,
    )
    results = Pipeline(stages, STEPS).join()
    assert [r["updates"] for r in results] == [STEPS] * count
    for ours, theirs in zip([*apart, *others], [*segments, *feedbacks], strict=True):
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        for name, value in ours.state_dict().items():
            assert torch.equal(value, expected[name]), name
