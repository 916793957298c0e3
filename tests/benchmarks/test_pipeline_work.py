"""What the pipelines train is the same for all of them, and the locked ones train it rightly."""

import pytest
import torch
from torch import nn

from benchmarks.link import Loopback
from benchmarks.pipeline.contestants import Runner
from benchmarks.pipeline.job import Job
from benchmarks.pipeline.locked import _sums
from benchmarks.pipeline.plain import train_alone, train_backprop
from benchmarks.pipeline.work import Work, build
from synthgrad.errors import ArgumentError
from synthgrad.lab.experiments.feed_forward import loss_fn
from synthgrad.lab.stages.build import wrong

DIGITS = Work(kind="mnist", recipe="digits-fcn", batch=64, iterations=100)
WIDE = Work(kind="wide", batch=32, width=24, message=16, depth=1)
LINEAR = Work(kind="sleep", batch=32, message=16, sleep=0.0)


@pytest.mark.parametrize("work", [DIGITS, WIDE, LINEAR], ids=lambda work: work.kind)
def test_every_process_builds_the_same(work):
    one, other = build(work, 3), build(work, 3)
    for a, b in zip(one.segments, other.segments, strict=True):
        assert a.state_dict().keys() == b.state_dict().keys()
        assert all(torch.equal(a.state_dict()[k], b.state_dict()[k]) for k in a.state_dict())
    assert len(one.feedbacks) == 2
    for step in (0, 7):
        assert all(map(torch.equal, one.batches(step), other.batches(step)))
    assert not torch.equal(one.batches(0)[0], one.batches(1)[0])
    x, y = one.batches(0)
    h = one.segments[0](x)
    assert one.feedbacks[0](h, y).shape == h.shape
    assert loss_fn(nn.Sequential(*one.segments)(x), y).ndim == 0


def test_stages_are_the_recipe_split_evenly():
    network = nn.Sequential(*build(DIGITS, 1).segments)
    keys = list(network.state_dict().values())
    for stages, sizes in ((2, [2, 2]), (3, [1, 1, 2]), (4, [1, 1, 1, 1])):
        task = build(DIGITS, stages)
        linear = [sum(isinstance(m, nn.Linear) for m in s.modules()) for s in task.segments]
        assert linear == sizes
        own = [v for s in task.segments for v in s.state_dict().values()]
        assert all(map(torch.equal, own, keys))
    with pytest.raises(ArgumentError, match="4 layers cannot be split into 5 stages"):
        build(DIGITS, 5)


def test_evaluation_sees_every_example_once():
    task = build(DIGITS, 2)
    assert task.evaluation is not None
    labels = torch.cat([y for _, y in task.evaluation()])
    assert len(labels) == 360
    y = torch.tensor([1, 2])
    assert wrong(torch.eye(10)[[1, 3]], y).tolist() == [0.0, 100.0]


def test_the_rate_falls_and_the_pace_is_kept():
    task = build(Work(kind="mnist", recipe="digits-fcn", batch=64, iterations=10, pace=0.02), 2)
    parameter = nn.Parameter(torch.zeros(()))
    optimizer = task.optimizer([parameter])
    rates = []
    for step in (0, 6, 8):
        task.before_step(step)
        rates.append(float(optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([1e-3, 1e-4, 1e-5])


@pytest.mark.parametrize(
    ("role", "work", "microbatches"),
    [("gpipe", LINEAR, 4), ("1f1b", LINEAR, 8), ("1f1b", WIDE, 4)],
    ids=["gpipe", "1f1b", "1f1b with batch norm"],
)
def test_a_locked_pipeline_computes_what_backpropagation_does(tmp_path, role, work, microbatches):
    steps = 3
    outcomes = Runner(tmp_path).pipeline(
        Loopback(), role, work, 2, steps, microbatches=microbatches
    )
    task = build(work, 2)
    model = nn.Sequential(*task.segments)
    optimizer = task.optimizer(model.parameters())
    # Batch norm sees microbatches, so there it is compared with accumulated gradients.
    parts = microbatches if work is WIDE else 1
    loss = torch.zeros(())
    for step in range(steps):
        optimizer.zero_grad()
        x, y = task.batches(step)
        losses = []
        for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
            losses.append(loss_fn(model(a), b))
            (losses[-1] / parts).backward()
        loss = torch.stack(losses).mean()
        optimizer.step()
    assert outcomes[1].result["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for segment, outcome in zip(task.segments, outcomes, strict=True):
        expected = _sums({name: p.grad for name, p in segment.named_parameters()})
        came = outcome.result["gradients"]
        assert came.keys() == expected.keys()
        for name, (total, squares) in expected.items():
            # What batch norm subtracts again is zero but for rounding.
            assert came[name] == pytest.approx([total, squares], rel=1e-2, abs=1e-6)
        assert [step for _, step in outcome.times] == [-1, *range(steps)]


def _job(role, work, **options):
    return Job(role=role, work=work, folder="", steps=6, stages=2, **options)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_alone_updates_what_it_holds(stage):
    task, before = build(WIDE, 2), build(WIDE, 2)
    noted = []
    train_alone(_job("alone", WIDE, stage=stage), task, noted.append)
    assert noted == list(range(6))

    def changed(module, original):
        pairs = zip(module.parameters(), original.parameters(), strict=True)
        return not all(torch.equal(a, b) for a, b in pairs)

    assert changed(task.segments[stage], before.segments[stage])
    assert not changed(task.segments[1 - stage], before.segments[1 - stage])
    assert changed(task.feedbacks[0], before.feedbacks[0]) == (stage == 0)


def test_backpropagation_learns_and_evaluates_as_often_as_asked():
    task = build(DIGITS, 2)
    job = Job(role="backprop", work=DIGITS, folder="", steps=60, evaluate_every=20)
    results = train_backprop(job, task, lambda step: None)["results"]
    assert [step for _, step, _ in results] == [20, 40, 60]
    assert results[-1][2] < 20


def test_a_job_survives_a_command_line():
    job = _job("ours", WIDE, window=3, core=1, resume=True)
    assert Job.from_json(job.to_json()) == job
