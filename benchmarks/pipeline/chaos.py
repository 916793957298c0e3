"""Kills the stages of a running pipeline one after the other, and stops one for a while."""

from __future__ import annotations

import itertools
import math
import signal
import time
from dataclasses import dataclass, replace

from benchmarks.pipeline.crew import Crew, Outcome
from benchmarks.pipeline.sizes import Sizes
from benchmarks.pipeline.timeline import UP, last_entry

_FRESH = 1.0
"""Seconds since its last step after which a stage counts as not running."""


@dataclass
class Fault:
    """One disturbance.

    Attributes:
        kind: "kill" or "hang".
        stage: whose.
        begin: the moment.
        end: when it was running again.
    """

    kind: str
    stage: int
    begin: float
    end: float = math.inf


class Chaos:
    """Disturbs a crew while it works; to be called again and again.

    Args:
        crew: its stages have been started.
        sizes: how many kills, how far apart, and how long a stage hangs.

    Attributes:
        faults: what has been done so far.
    """

    def __init__(self, crew: Crew, sizes: Sizes) -> None:
        self._crew, self._sizes = crew, sizes
        self.faults: list[Fault] = []
        self._steady_since = math.inf
        self._stopped = False
        self._absent = False

    def __call__(self) -> None:
        """One look, and perhaps one disturbance."""
        now = time.monotonic()
        if self.faults and self.faults[-1].end == math.inf:
            self._recover(self.faults[-1], now)
        elif not self._all_running(now):
            self._steady_since = math.inf
        elif self._steady_since == math.inf:
            self._steady_since = now
        elif now - self._steady_since > self._sizes.steady:
            self._disturb(now)

    def _disturb(self, now: float) -> None:
        done = len(self.faults)
        stage = done % self._sizes.fault_stages
        if done < self._sizes.kills:
            self.faults.append(Fault("kill", stage, now))
            self._crew.kill(stage)
            self._absent = True
        elif done == self._sizes.kills:
            last = self._sizes.fault_stages - 1
            self.faults.append(Fault("hang", last, now))
            self._crew.send(last, signal.SIGSTOP)
            self._stopped = True
        self._steady_since = math.inf

    def _recover(self, fault: Fault, now: float) -> None:
        if self._absent:
            if now - fault.begin > self._sizes.absence:
                self._crew.start(replace(self._crew.jobs[fault.stage], resume=True))
                self._absent = False
        elif self._stopped:
            if now - fault.begin > self._sizes.hang:
                self._crew.send(fault.stage, signal.SIGCONT)
                self._stopped = False
                fault.end = now
        elif self._last(fault.stage) > fault.begin and self._trains(fault.stage):
            fault.end = self._last(fault.stage)

    def _all_running(self, now: float) -> bool:
        stages = range(self._sizes.fault_stages)
        return all(self._crew.ended(s) is None and now - self._last(s) < _FRESH for s in stages)

    def _last(self, stage: int) -> float:
        return last_entry(self._crew.jobs[stage].times_path)[0]

    def _trains(self, stage: int) -> bool:
        return last_entry(self._crew.jobs[stage].times_path)[1] != UP


@dataclass(frozen=True)
class Pauses:
    """What the faults did to the other stages, in seconds.

    Attributes:
        below: the longest pause of a stage below one that was killed.
        above: the longest pause of a stage above one that was killed, beyond the time for which
            that one sent nothing.
        hang: the longest pause of a stage below one that hung.
        back: the longest time from a process being ready to its next step.
        outage: the longest from a kill to the next step, with the process's start.
    """

    below: float
    above: float
    hang: float
    back: float
    outage: float


def around(outcomes: list[Outcome], fault: Fault) -> dict[int, float]:
    """The longest pause of every stage from a fault until shortly after it, in seconds."""
    own = outcomes[fault.stage].times
    again = next((m for m, step in own if m > fault.begin and step != UP), math.inf)
    end = min(fault.end, again) + 2.0
    return {o.job.stage: _longest(o.times, fault.begin, end) for o in outcomes}


def pauses(outcomes: list[Outcome], faults: list[Fault]) -> Pauses:
    """Reads them off the timelines."""
    below, above, hang, back, outage = 0.0, 0.0, 0.0, 0.0, 0.0
    for fault in faults:
        own = outcomes[fault.stage].times
        again = next((m for m, step in own if m > fault.begin and step != UP), math.inf)
        if fault.kind == "kill":
            up = next((m for m, step in own if m > fault.begin and step == UP), math.inf)
            outage = max(outage, again - fault.begin)
            back = max(back, again - up if again < math.inf else math.inf)
        for stage, longest in around(outcomes, fault).items():
            if fault.kind == "hang":
                hang = max(hang, longest if stage < fault.stage else 0.0)
            elif stage < fault.stage:
                below = max(below, longest)
            elif stage > fault.stage:
                above = max(above, longest - (again - fault.begin))
    return Pauses(below, above, hang, back, outage)


def _longest(times: list[tuple[float, int]], begin: float, end: float) -> float:
    """The longest time between two steps of which the second comes between two moments."""
    steps = [moment for moment, step in times if step != UP]
    pairs = itertools.pairwise(steps)
    return max((b - a for a, b in pairs if begin < b and a < end), default=0.0)
