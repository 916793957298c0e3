"""Part ``stages``: more machines than there are cores, so their work is to sleep."""

from __future__ import annotations

from benchmarks.link import Loopback
from benchmarks.pipeline.contestants import Runner
from benchmarks.pipeline.crew import Outcome, slowest
from benchmarks.pipeline.findings import Findings, Goal
from benchmarks.pipeline.sizes import Sizes

GROWTH = 1.05
"""The most that memory may grow from n steps to 10 n."""


def measure_stages(runner: Runner, sizes: Sizes) -> Findings:
    """Throughput, cost of a message, and memory, by the number of stages."""
    work, n = sizes.sleeping, sizes.sleep_steps
    steps, warm = 10 * n, n // 2
    found = Findings(
        "stages",
        f"stages that sleep {1e3 * work.sleep:g} ms a step, batch {work.batch}, messages of "
        f"{work.batch * work.message * 4:,} bytes",
        (
            "stages",
            "ms a step",
            "of the sleep alone",
            "of a stage alone",
            "CPU µs / step / stage",
            "MB after n",
            "MB after 10 n",
        ),
    )
    alone = runner.alone(Loopback(), work, 2, steps, 0)
    cost_alone, lone = _cpu(alone), slowest([alone], warm)
    share, growth = 0.0, 0.0
    for count in sizes.counts:
        outcomes = runner.pipeline(Loopback(), "ours", work, count, steps, pinned=False)
        seconds = slowest(outcomes, warm + 2 * count)
        share = work.sleep / seconds
        cost = sum(map(_cpu, outcomes)) / count
        early, late = (max(_bytes(o, at) for o in outcomes) for at in (n, steps))
        growth = max(growth, max(_bytes(o, steps) / _bytes(o, n) for o in outcomes))
        found.rows.append(
            (
                str(count),
                f"{1e3 * seconds:.2f}",
                f"{share:.3f}",
                f"{lone / seconds:.3f}",
                f"{1e6 * cost:.0f}",
                f"{early / 1e6:.1f}",
                f"{late / 1e6:.1f}",
            )
        )
        found.numbers[str(count)] = {
            "seconds": seconds,
            "of_ideal": share,
            "cpu_seconds": [_cpu(o) for o in outcomes],
            "bytes": [[_bytes(o, n), _bytes(o, steps)] for o in outcomes],
        }
    found.numbers["alone"] = {
        "seconds": lone,
        "cpu_seconds": cost_alone,
    }
    found.notes = [
        f"A stage alone, without messages: {1e3 * lone:.2f} ms and "
        f"{1e6 * cost_alone:.0f} µs of CPU a step; the rest is a message's cost: sending and "
        "receiving it and its target, and signs of life.",
        f"n = {n} steps; memory is that of the largest stage.",
    ]
    found.goals = [
        Goal(f"throughput of {sizes.counts[-1]} stages / that of the sleep alone", share, 0.95),
        Goal("memory of a stage after 10 n / after n, the most", growth, GROWTH, at_least=False),
    ]
    return found


def _cpu(outcome: Outcome) -> float:
    """Processor seconds a step, after the first tenth."""
    entries = outcome.result["usage"]
    first, last = entries[1], entries[-1]
    return (last["cpu"] - first["cpu"]) / (last["step"] - first["step"])


def _bytes(outcome: Outcome, step: int) -> float:
    return next(e["bytes"] for e in outcome.result["usage"] if e["step"] == step)
