"""Part ``delay``: the same two stages over links that hold each packet."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.link import Loopback, Network, round_trip
from benchmarks.pipeline.contestants import Runner, Times
from benchmarks.pipeline.crew import Outcome
from benchmarks.pipeline.findings import Findings, Goal
from benchmarks.pipeline.rate import MICROBATCHES, OURS
from benchmarks.pipeline.sizes import Sizes

BOUNDS = {0.025: 8.0, 0.1: 25.0}
"""How many times 1F1B's rate is to be reached, by seconds of delay one way."""


def measure_delay(runner: Runner, sizes: Sizes) -> Findings:
    """Ours and 1F1B by delay, each round one turn of every contestant."""
    work, times = sizes.wide, Times()
    settled: dict[float, tuple[int, float]] = {}
    trips: dict[float, float] = {}
    relayed: dict[float, float] = {}
    with ExitStack() as stack:
        places: dict[float, Loopback | Network] = {0.0: Loopback()}
        for delay in sizes.delays:
            network = places[delay] = stack.enter_context(Network(2, delay))
            trips[delay] = round_trip(network)
        for _ in range(sizes.rounds):
            for delay, place in places.items():
                # What a long link holds has to be on its way before anything is timed.
                warm = sizes.warm_up if not delay else 4 * sizes.warm_up
                outcomes = runner.pipeline(place, "ours", work, 2, sizes.steps + warm)
                times.add_pipeline(_name(OURS, delay), outcomes, warm)
                settled[delay] = _window(outcomes)
        for delay, place in places.items():
            for count in MICROBATCHES:
                steps, warm = (sizes.locked_steps, 2) if delay else (sizes.steps, sizes.warm_up)
                outcomes = runner.pipeline(place, "1f1b", work, 2, steps + warm, microbatches=count)
                times.add_pipeline(_name(f"1F1B, {count} microbatches", delay), outcomes, warm)
        for delay, place in places.items():
            if isinstance(place, Network):
                relayed[delay] = place.cpu_seconds
    return _findings(times, sizes, settled, trips, relayed)


def _name(contestant: str, delay: float) -> str:
    return f"{1e3 * delay:g} ms: {contestant}"


def _window(outcomes: list[Outcome]) -> tuple[int, float]:
    """Messages in flight that the first stage settled on, and the round trip it measured."""
    status = outcomes[0].result["status"]
    return status["window"], status["round_trip"] or 0.0


def _findings(
    times: Times,
    sizes: Sizes,
    settled: dict[float, tuple[int, float]],
    trips: dict[float, float],
    relayed: dict[float, float],
) -> Findings:
    near = times[_name(OURS, 0.0)]
    found = Findings(
        "delay",
        "two equal stages over a link, by its delay each way",
        ("", "ms a step", "rate / own without delay", "window", "round trip (ms)"),
    )
    for delay in (0.0, *sizes.delays):
        window, trip = settled[delay]
        seconds = times[_name(OURS, delay)]
        row = (f"{1e3 * seconds:.2f}", f"{near / seconds:.2f}", str(window), f"{1e3 * trip:.1f}")
        found.rows.append((_name(OURS, delay), *row))
        for count in MICROBATCHES:
            name = _name(f"1F1B, {count} microbatches", delay)
            own = times[_name(f"1F1B, {count} microbatches", 0.0)]
            found.rows.append(
                (name, f"{1e3 * times[name]:.2f}", f"{own / times[name]:.2f}", "", "")
            )
        if delay:
            best = times.best(_name("1F1B", delay))
            about = f"{1e3 * delay:g} ms: rate /"
            found.goals.append(Goal(f"{about} own without delay", near / seconds, 0.9))
            bound = BOUNDS.get(delay, 1.0)
            found.goals.append(Goal(f"{about} 1F1B's best", best / seconds, bound))
    for delay, trip in trips.items():
        found.notes.append(
            f"{1e3 * delay:g} ms link: {1e3 * trip:.1f} ms for a TCP round trip; carrying the "
            f"packets took {relayed[delay]:.1f} s of the same cores"
        )
    found.numbers = {
        "seconds": times.all,
        "windows": {str(delay): window for delay, (window, _) in settled.items()},
        "round_trips": {str(delay): trip for delay, (_, trip) in settled.items()},
        "tcp_round_trips": {str(delay): trip for delay, trip in trips.items()},
    }
    return found
