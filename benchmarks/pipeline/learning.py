"""Part ``learning``: the recipe in stages, near and far, beside backpropagation."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.link import Loopback, Network, Place
from benchmarks.pipeline.contestants import Runner
from benchmarks.pipeline.crew import Outcome, slowest
from benchmarks.pipeline.findings import Findings, Goal
from benchmarks.pipeline.rate import MICROBATCHES
from benchmarks.pipeline.sizes import Sizes
from benchmarks.pipeline.timeline import UP


@dataclass(frozen=True)
class Learned:
    """How a run went.

    Attributes:
        error: the test error at the end, in percent.
        seconds: the whole run's.
        steps_to_goal: steps after which the error was first at the goal, as far as evaluations
            show; None where it never was.
        seconds_to_goal: the time of that since the first step.
    """

    error: float
    seconds: float
    steps_to_goal: int | None
    seconds_to_goal: float | None


def learned(outcomes: list[Outcome], goal: float) -> Learned:
    """Reads it off the evaluations of the last stage and the first step of the first."""
    results = outcomes[-1].result["results"]
    begin = next(moment for moment, step in outcomes[0].times if step != UP)
    hit = next((entry for entry in results if entry[2] <= goal), None)
    return Learned(
        error=results[-1][2],
        seconds=results[-1][0] - begin,
        steps_to_goal=None if hit is None else int(hit[1]),
        seconds_to_goal=None if hit is None else hit[0] - begin,
    )


def measure_learning(runner: Runner, sizes: Sizes) -> Findings:
    """Test error, and the time until it is at the goal."""
    work, every, goal = sizes.learning, sizes.evaluate_every, sizes.goal
    trip = 2e3 * sizes.learning_delay
    found = Findings(
        "learning",
        f"{work.recipe}, {work.depth} layers, {work.iterations} iterations, cDNI between stages",
        ("", "test error %", "steps to goal", "seconds to goal", "ms a step"),
    )
    outcome = runner.backprop(Loopback(), work, 1, work.iterations, 1, evaluate_every=every)
    backprop = learned([outcome], goal)
    _row(found, "backprop in one process", backprop, slowest([outcome], 1))
    for stages in sizes.learning_stages:
        with Network(stages, sizes.learning_delay) as network:
            places: dict[str, Place] = {
                "no delay": Loopback(),
                f"{trip:g} ms round trip": network,
            }
            for name, place in places.items():
                outcomes = runner.pipeline(
                    place, "ours", work, stages, work.iterations, evaluate_every=every
                )
                ours = learned(outcomes, goal)
                about = f"decoupled, {stages} stages, {name}"
                _row(found, about, ours, slowest(outcomes, 1))
                found.goals.append(Goal(f"{about}: test error", ours.error, goal, at_least=False))
                found.numbers[about]["window"] = outcomes[0].result["status"]["window"]
                seconds = _locked(runner, place, sizes, stages)
                steps = backprop.steps_to_goal
                if steps is not None:
                    found.rows.append(
                        (f"1F1B, {stages} stages, {name} *", "", str(steps), *_told(steps, seconds))
                    )
                found.numbers[f"1F1B, {stages} stages, {name}"] = {"seconds_per_step": seconds}
    found.notes = [
        f"Goal: {goal:g}% test error, looked at every {every} steps.",
        "* its measured step, the best of its microbatches, times the steps backprop took.",
    ]
    return found


def _locked(runner: Runner, place: Place, sizes: Sizes, stages: int) -> float:
    """Seconds of 1F1B's step on the same network, over the same links."""
    near = isinstance(place, Loopback)
    steps, warm = (sizes.steps, sizes.warm_up) if near else (sizes.locked_steps, 2)
    return min(
        slowest(
            runner.pipeline(
                place, "1f1b", sizes.learning, stages, steps + warm, microbatches=count
            ),
            warm,
        )
        for count in MICROBATCHES
    )


def _told(steps: int, seconds: float) -> tuple[str, str]:
    return f"{steps * seconds:.1f}", f"{1e3 * seconds:.2f}"


def _row(found: Findings, name: str, run: Learned, seconds: float) -> None:
    steps = "never" if run.steps_to_goal is None else str(run.steps_to_goal)
    reached = "" if run.seconds_to_goal is None else f"{run.seconds_to_goal:.1f}"
    found.rows.append((name, f"{run.error:.2f}", steps, reached, f"{1e3 * seconds:.2f}"))
    found.numbers[name] = {**vars(run), "seconds_per_step": seconds}
