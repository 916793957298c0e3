"""What a part of the benchmark found: a table, the goals it was to reach, and all numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Goal:
    """A number that was to reach a bound.

    Attributes:
        about: what it is.
        value: the number; None where it could not be measured.
        bound: what it is compared with.
        at_least: whether it has to be that or more, rather than that or less.
    """

    about: str
    value: float | None
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        if self.value is None:
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass
class Findings:
    """Of one part.

    Attributes:
        part: its name.
        about: what was measured, in a line.
        columns: of the table; the first holds names, the others numbers.
        rows: of the table.
        goals: what was to be reached.
        notes: what else the reader has to know.
        numbers: everything, for the JSON file.
        seconds: that it took.
    """

    part: str
    about: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything, each goal with whether it was met."""
        goals = [{**asdict(goal), "met": goal.met} for goal in self.goals]
        return {**asdict(self), "goals": goals}


def show(console: Console, findings: Findings) -> None:
    """Prints a part: its table, its notes, its goals."""
    console.print(f"\n[bold]{findings.part}[/bold]: {findings.about}", highlight=False)
    console.print(_table(findings.columns, findings.rows))
    for note in findings.notes:
        console.print(note, highlight=False, markup=False)
    rows = [
        (
            goal.about,
            "not measured" if goal.value is None else f"{goal.value:.2f}",
            f"{'≥' if goal.at_least else '≤'} {goal.bound:g}",
            "yes" if goal.met else "no",
        )
        for goal in findings.goals
    ]
    console.print(_table(("to reach", "measured", "bound", "reached"), rows))
    console.print(f"({findings.part} took {findings.seconds:.0f} s)", highlight=False)


def _table(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    first, *others = columns
    table = Table(first, box=None)
    for heading in others:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table
