"""Synchronous stages compute what one process computes, to the last bit."""

import multiprocessing
import time
from copy import deepcopy
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.distributed import Options, Stage, serve
from tests.distributed.threads import Pipeline, build

STEPS = 12
OPTIMIZER = partial(torch.optim.Adam, lr=1e-2)
SYNCHRONOUS = Options(window=1, synchronous=True)


def _batches(step, size=16):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, 10, generator=generator)
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


def _hidden(inputs, units):
    return nn.Sequential(nn.Linear(inputs, units), nn.BatchNorm1d(units), nn.ReLU())


def _feedback(method, units):
    if method in ("stale", "none"):
        return sg.feedback.Stale(0.5) if method == "stale" else sg.feedback.Zero()
    if method == "linear":
        return sg.feedback.Linear(units)
    made = sg.feedback.MLP(units, hidden=(20,), context=4 if method == "cdni" else 0)
    last = made.rest[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=0.1)  # so that the first prediction counts
    return made


def _network(method, *units):
    """Segments of these widths and their feedback models, the same for whoever asks."""
    torch.manual_seed(3)
    widths = [10, *units]
    segments = [*(_hidden(a, b) for a, b in pairwise(widths)), nn.Linear(widths[-1], 4)]
    return segments, [_feedback(method, width) for width in units]


def _unlocked(segments, feedbacks, batches):
    """Trains them in this process; returns all their states."""
    parts = [p for s, f in zip(segments, feedbacks, strict=False) for p in (s, sg.Interface(f))]
    schedule = sg.Unlocked(nn.Sequential(*parts, segments[-1]), OPTIMIZER)
    for step in range(STEPS):
        x, y = batches(step)
        schedule.step(x, lambda output, y=y: F.cross_entropy(output, y), y)
    return [module.state_dict() for module in (*segments, *feedbacks)]


def _equal(ours, theirs):
    for own, expected in zip(ours, theirs, strict=True):
        assert own.keys() == expected.keys()
        for name, value in own.items():
            assert torch.equal(value, expected[name]), name


@settings(max_examples=12, deadline=None)
@given(
    method=st.sampled_from(["linear", "dni", "cdni", "stale", "none"]),
    units=st.lists(st.integers(1, 33), min_size=1, max_size=3),
    size=st.integers(2, 40),
)
def test_stages_of_any_widths_are_unlocked(method, units, size):
    """As threads of this process: what there is to see of shapes, methods and counts."""
    batches = partial(_batches, size=size)
    segments, feedbacks = _network(method, *units)
    expected = _unlocked(*deepcopy((segments, feedbacks)), batches)
    stages = build(
        segments,
        feedbacks,
        options=SYNCHRONOUS,
        batches=batches,
        loss_fn=F.cross_entropy,
        optimizer=OPTIMIZER,
    )
    results = Pipeline(stages, STEPS).join()
    assert [r["updates"] for r in results] == [STEPS] * len(segments)
    _equal([module.state_dict() for module in (*segments, *feedbacks)], expected)


NETWORKS = {2: ("cdni", 48), 3: ("dni", 48, 24)}


def _work(index, store, folder):
    """One process: a stage of each network that has so many."""
    torch.set_num_threads(1)
    for count, network in NETWORKS.items():
        if index >= count:
            continue
        segments, feedbacks = _network(*network)
        last = index == count - 1
        stage = Stage(
            segments[index],
            index=index,
            stages=count,
            store=store[count],
            optimizer=OPTIMIZER,
            feedback=None if last else feedbacks[index],
            loss_fn=F.cross_entropy if last else None,
            batches=_batches if index == 0 else None,
            options=SYNCHRONOUS,
        )
        status = stage.run(STEPS)
        modules = [segments[index], *([] if last else [feedbacks[index]])]
        states = [module.state_dict() for module in modules]
        torch.save({"pid": status["pid"], "states": states}, folder / f"{count}-{index}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where three processes, with nothing in common but a store, left their parts."""
    made = tmp_path_factory.mktemp("processes")
    stores = {count: serve() for count in NETWORKS}
    where = {count: f"127.0.0.1:{store.port}" for count, store in stores.items()}
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(i, where, made)) for i in range(3)]
    for process in processes:
        process.start()
    end = time.monotonic() + 150  # on a busy machine, Python and PyTorch take most of it to start
    for process in processes:
        process.join(max(0.1, end - time.monotonic()))
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    return made


@pytest.mark.timeout(200)
@pytest.mark.parametrize("count", list(NETWORKS))
def test_two_or_three_processes_are_unlocked(folder, count):
    found = [torch.load(folder / f"{count}-{index}.pt") for index in range(count)]
    assert len({one["pid"] for one in found}) == count
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = _unlocked(*_network(*NETWORKS[count]), _batches)
    finally:
        torch.set_num_threads(threads)
    ours = [one["states"][0] for one in found] + [one["states"][1] for one in found[:-1]]
    _equal(ours, expected)
