"""Part ``rate``: two equal stages on this machine, nothing between them."""

from __future__ import annotations

from benchmarks.link import Loopback
from benchmarks.pipeline.contestants import Runner, Times
from benchmarks.pipeline.findings import Findings, Goal
from benchmarks.pipeline.job import Role
from benchmarks.pipeline.sizes import Sizes

MICROBATCHES = (4, 8)
LOCKED: tuple[tuple[str, Role], ...] = (("1F1B", "1f1b"), ("GPipe", "gpipe"))
OURS = "decoupled"


def measure_rate(runner: Runner, sizes: Sizes) -> Findings:
    """Ours beside a stage alone, the locked pipelines and plain backpropagation."""
    place, work, times = Loopback(), sizes.wide, Times()
    steps, warm = sizes.steps + sizes.warm_up, sizes.warm_up
    for _ in range(sizes.rounds):
        for stage in range(2):
            outcome = runner.alone(place, work, 2, steps, stage)
            times.add_pipeline(f"stage {stage} alone", [outcome], warm)
        # What the machine itself costs: two cores at work slow each other.
        both = runner.pipeline(place, "alone", work, 2, steps)
        times.add_pipeline("both at once, unconnected", both, warm)
        times.add_pipeline(OURS, runner.pipeline(place, "ours", work, 2, steps), warm)
        for name, role in LOCKED:
            for count in MICROBATCHES:
                outcomes = runner.pipeline(place, role, work, 2, steps, microbatches=count)
                times.add_pipeline(f"{name}, {count} microbatches", outcomes, warm)
        for threads in sizes.threads:
            outcome = runner.backprop(place, work, 2, steps, threads)
            times.add_pipeline(
                f"backprop in one process, {threads} thread{'s' * (threads > 1)}", [outcome], warm
            )
    return _findings(times)


def _findings(times: Times) -> Findings:
    ours = times[OURS]
    alone = max(times[name] for name in times.all if name.endswith("alone"))
    found = Findings(
        "rate",
        "two equal stages, one core each, no delay",
        ("", "ms a step", "rate / decoupled's"),
    )
    found.rows = [(n, f"{1e3 * times[n]:.2f}", f"{ours / times[n]:.2f}") for n in times.all]
    found.goals = [
        Goal("rate / that of the slowest stage alone", alone / ours, 0.95),
        Goal("rate / 1F1B's best", times.best("1F1B") / ours, 1.4),
    ]
    found.numbers = {"seconds": times.all}
    return found
