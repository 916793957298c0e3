"""How large each part of the benchmark is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.pipeline.work import Work

_WIDE = Work(kind="wide")
_SLEEPING = Work(kind="sleep", sleep=0.1, batch=32, message=64)
_MNIST = Work(kind="mnist", iterations=5000)
# Long enough for 20 kills with seconds of training between them.
_SLOWED = replace(_MNIST, pace=0.03, iterations=10_000)
_DIGITS = Work(kind="mnist", recipe="digits-fcn", iterations=200, batch=128)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Steps, rounds and networks.

    Attributes:
        wide: the two equal stages of the parts about speed.
        threads: of backpropagation in one process.
        rounds: how often each contestant has its turn; the fastest counts.
        steps: of a turn, after ``warm_up`` more.
        warm_up: steps at first that are not timed.
        locked_steps: of a locked pipeline over a slow link.
        delays: seconds one way, beside none.
        counts: of sleeping stages.
        sleeping: those stages.
        sleep_steps: n; memory is compared after n and after 10 n.
        learning: the recipe.
        evaluate_every: its steps between evaluations.
        learning_stages: into how many stages it is split.
        learning_delay: seconds one way.
        goal: its test error in percent.
        faulty: the recipe of the part about faults.
        fault_stages: in how many stages.
        kills: how many.
        steady: seconds for which all stages run between two kills.
        absence: seconds from a kill until the process is started again, as long as a supervisor
            and Python take.
        hang: seconds for which a stage is stopped (SIGSTOP) after the kills.
        patience: seconds after which a stage that is silent counts as gone.
    """

    wide: Work = _WIDE
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 3
    steps: int = 150
    warm_up: int = 30
    locked_steps: int = 12
    delays: tuple[float, ...] = (0.025, 0.1)
    counts: tuple[int, ...] = (2, 4, 8, 16)
    sleeping: Work = _SLEEPING
    sleep_steps: int = 40
    learning: Work = _MNIST
    evaluate_every: int = 250
    learning_stages: tuple[int, ...] = (2, 4)
    learning_delay: float = 0.05
    goal: float = 2.0
    faulty: Work = _SLOWED
    fault_stages: int = 4
    kills: int = 20
    steady: float = 5.0
    absence: float = 3.0
    hang: float = 10.0
    patience: float = 3.0

    def with_data(self, root: Path | None) -> Sizes:
        """The same with data sets from a folder of the user's."""
        if root is None:
            return self
        learning, faulty = (replace(w, data_root=str(root)) for w in (self.learning, self.faulty))
        return replace(self, learning=learning, faulty=faulty)


FULL = Sizes()
QUICK = replace(
    FULL,
    wide=Work(kind="wide", batch=32, width=32, message=32, depth=1),
    threads=(1,),
    rounds=1,
    steps=10,
    warm_up=4,
    locked_steps=3,
    delays=(0.01,),
    counts=(2,),
    sleeping=Work(kind="sleep", sleep=0.005, batch=8, message=16),
    sleep_steps=10,
    learning=_DIGITS,
    evaluate_every=50,
    learning_stages=(2,),
    learning_delay=0.01,
    goal=50.0,
    faulty=replace(_DIGITS, iterations=500, pace=0.02),
    fault_stages=2,
    kills=2,
    steady=0.5,
    absence=0.3,
    hang=1.5,
    patience=0.5,
)
"""So small that its numbers say nothing; for seeing whether everything runs."""
