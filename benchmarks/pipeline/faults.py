"""Part ``faults``: stages are killed and stopped while the others train."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.link import Loopback
from benchmarks.pipeline.chaos import Chaos, around, pauses
from benchmarks.pipeline.contestants import LIMIT, Runner
from benchmarks.pipeline.crew import Crew, Outcome, settled
from benchmarks.pipeline.findings import Findings, Goal
from benchmarks.pipeline.sizes import Sizes

NEAR = 0.3
"""Points of test error that faults may cost."""
PAUSE = 1.0
"""Seconds for which a stage may stop when one above it dies."""
BACK = 2.0
"""Seconds from a process being ready to its stage's next step."""
CHECKPOINTS = 1.0
"""Seconds between checkpoints."""


def measure_faults(runner: Runner, sizes: Sizes) -> Findings:
    """The same run undisturbed, at its own pace, and disturbed."""
    work, stages = sizes.faulty, sizes.fault_stages
    calm = runner.pipeline(
        Loopback(),
        "ours",
        replace(work, pace=0.0),
        stages,
        work.iterations,
        evaluate_every=work.iterations,
    )
    jobs = runner.stages(
        "ours",
        work,
        stages,
        work.iterations,
        pinned=False,
        evaluate_every=work.iterations,
        timeout=sizes.patience,
        checkpoint_every=CHECKPOINTS,
    )
    with Crew(Loopback()) as crew:
        for job in jobs:
            crew.start(settled(job, crew))
        chaos = Chaos(crew, sizes)
        outcomes = crew.wait(LIMIT, chaos)
    return _findings(calm, outcomes, chaos, sizes)


def _findings(calm: list[Outcome], outcomes: list[Outcome], chaos: Chaos, sizes: Sizes) -> Findings:
    work = sizes.faulty
    before, after = (run[-1].result["results"][-1][2] for run in (calm, outcomes))
    kills = [fault for fault in chaos.faults if fault.kind == "kill"]
    seen = pauses(outcomes, chaos.faults)
    found = Findings(
        "faults",
        f"{work.recipe} in {sizes.fault_stages} stages, {work.iterations} iterations of at least "
        f"{1e3 * work.pace:g} ms, {len(kills)} kills, then {sizes.hang:g} s of SIGSTOP",
        ("stage", "updates", "kills", "messages sent", "messages dropped", "targets"),
    )
    for outcome in outcomes:
        status, stage = outcome.result["status"], outcome.job.stage
        count = sum(fault.stage == stage for fault in kills)
        cells = (status["updates"], count, status["sent"], status["dropped"], status["targets"])
        found.rows.append((str(stage), *map(str, cells)))
    hung = any(fault.kind == "hang" for fault in chaos.faults)
    found.goals = [
        Goal("kills", len(kills), sizes.kills),
        Goal("test error, points above the undisturbed run's", after - before, NEAR, False),
        Goal("longest pause of a stage below a killed one (s)", seen.below, PAUSE, False),
        Goal("the same above, beyond the time without input (s)", seen.above, BACK, False),
        Goal(
            "longest pause of a stage below one that hangs (s)",
            seen.hang if hung else None,
            sizes.patience + PAUSE,
            False,
        ),
        Goal("longest from ready to the next step (s)", seen.back, BACK, False),
    ]
    found.notes = [
        f"Test error {after:.2f}%, undisturbed {before:.2f}%. From a kill to the stage's next "
        f"step, of which {sizes.absence:g} s stand for starting a process: at most "
        f"{seen.outage:.1f} s.",
        "The counters are those since the last start of each stage's process."
        if not _kept(outcomes)
        else "The counters go on over restarts, from the last checkpoint.",
    ]
    found.numbers = {
        "error": after,
        "undisturbed": before,
        "pauses": vars(seen),
        "faults": [{**vars(fault), "pauses": around(outcomes, fault)} for fault in chaos.faults],
        "status": [outcome.result["status"] for outcome in outcomes],
    }
    return found


def _kept(outcomes: list[Outcome]) -> bool:
    """Whether updates are counted over restarts: more than this process's own steps."""
    first = outcomes[0]
    starts = [i for i, (_, step) in enumerate(first.times) if step < 0]
    return first.result["status"]["updates"] > len(first.times) - starts[-1]
