"""The levels of Copy and Repeat Copy, and when the next one comes (3.1, D.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from synthgrad.errors import NonFiniteError

Number = TypeVar("Number", int, Tensor)


@dataclass(frozen=True)
class Level:
    """How hard the task is.

    Attributes:
        n: N, the characters to copy.
        r: R, how often to copy them.
    """

    n: int = 1
    r: int = 1

    @property
    def task_length(self) -> int:
        """T_task, as the paper counts: N + 3 for Copy, NR + 3 for Repeat Copy."""
        return self.n * self.r + 3


@dataclass(frozen=True)
class Task:
    """One of the two tasks.

    An episode of Copy is N characters, a stop character, then N steps in which they are to be
    written and one for a final stop: 2N + 2 steps. In Repeat Copy the number R follows the first
    stop, and the characters are written R times: N + NR + 3 steps. (T_task is not an episode's
    number of steps. The paper calls it so, but its own words give these.)

    Attributes:
        repeats: whether it is Repeat Copy.
    """

    repeats: bool

    def reading(self, n: Number) -> Number:
        """Steps before the first character is to be written."""
        return n + (2 if self.repeats else 1)

    def writing(self, n: Number, r: Number) -> Number:
        """Steps from there to the end of the episode; those that count."""
        return n * r + 1

    def steps(self, n: Number, r: Number) -> Number:
        """Steps of an episode."""
        return self.reading(n) + self.writing(n, r)

    def after(self, level: Level) -> Level:
        """The next level: N + 1; in Repeat Copy N and R in turn, N first.

        So R is 1, 1, 2, 2, 3, … for N of 1, 2, 2, 3, 3, …; that N comes first is read off Table 1,
        whose lengths (5, 7, 19, 23, 33, 39, 59, 67) are all on this path.
        """
        if self.repeats and level.n > level.r:
            return Level(level.n, level.r + 1)
        return Level(level.n + 1, level.r)


class Curriculum:
    """The level rule: a level is solved when its average error is below a threshold.

    The paper says "averaging below 0.15 bits error" and not over what. Here it is the mean
    cross entropy, in bits, of all characters that were to be written (the final stops among them)
    by rows at the present level, over the training steps since the last decision. A decision needs
    at least as many characters as one episode of every row has; until then the window grows. The
    streams are endless, so no error is measured on anything that was seen before.

    Args:
        task: which levels there are.
        threshold: in bits.

    Attributes:
        level: the present one.
        solved_length: T_task of the longest level that was solved; 0 before the first.
        history: for each solved level, in order, the samples seen until then and its T_task.
        error: the average at the last decision, in bits; NaN before the first.
    """

    def __init__(self, task: Task, threshold: float) -> None:
        self.task = task
        self.threshold = threshold
        self.level = Level()
        self.solved_length = 0
        self.history: list[list[int]] = []
        self.error = math.nan

    def needed(self, rows: int) -> int:
        """How many characters a decision needs."""
        return rows * self.task.writing(self.level.n, self.level.r)

    def decide(self, error: float, samples: int) -> bool:
        """Takes the next level if this one is solved.

        Args:
            error: the average of a window, in bits.
            samples: how many were seen so far.

        Returns:
            Whether it was solved.

        Raises:
            NonFiniteError: the error is NaN or infinite.
        """
        if not math.isfinite(error):
            raise NonFiniteError(
                f"training has diverged: the average error at N = {self.level.n}, "
                f"R = {self.level.r} is {error} bits after {samples} samples"
            )
        self.error = error
        if error >= self.threshold:
            return False
        self.solved_length = self.level.task_length
        self.history.append([samples, self.solved_length])
        self.level = self.task.after(self.level)
        return True

    def state_dict(self) -> dict[str, Any]:
        """All that later decisions depend on."""
        return {
            "level": [self.level.n, self.level.r],
            "solved_length": self.solved_length,
            "history": [list(entry) for entry in self.history],
            "error": self.error,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""
        self.level = Level(*state["level"])
        self.solved_length = state["solved_length"]
        self.history = [list(entry) for entry in state["history"]]
        self.error = state["error"]
