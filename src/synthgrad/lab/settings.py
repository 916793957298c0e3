"""What all option classes of the lab have in common: how they refuse, print and change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from synthgrad.lab.errors import UsageError

MOST = 2**63 - 1
"""Of whole numbers: what PyTorch's hold."""
LARGEST = 3.4e38
"""Of numbers: what single precision holds."""
MOST_THREADS = 1024
MOST_LAYERS = 10_000


class Settings(BaseModel, ABC):
    """Options that are checked when they are made, and never change.

    Attributes:
        nothing_at_zero: the options for which 0 means that nothing was said, as None always does.
        only_with: the options that do something only with some values of another: which other,
            and which values of it.

    Raises:
        UsageError: a value is outside its range; says which, what came and what was expected.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )
    nothing_at_zero: ClassVar[frozenset[str]] = frozenset(
        ("iterations", "learning_rate", "feedback_learning_rate", "input_learning_rate")
    )
    only_with: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {}

    @field_validator("*")
    @classmethod
    def _is_sane(cls, value: Any) -> Any:
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int) and abs(one) > MOST:
                raise ValueError("that is beyond 63 bits")
            if isinstance(one, float) and abs(one) > LARGEST:
                raise ValueError("that is beyond single precision")
        return value

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError("; ".join(_line(e) for e in error.errors())) from None

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``config.json``."""
        return self.model_dump(mode="json", by_alias=True)

    @abstractmethod
    def folder_name(self, recipe: str) -> str:
        """What a run folder is called unless told otherwise."""

    def changed(self, **values: Any) -> Self:
        """A copy with other values, checked like any.

        Raises:
            UsageError: a value is outside its range.
        """
        return type(self)(**(self.model_dump() | values))

    def check_effect(self, defaults: Self) -> None:
        """Looks whether everything that was said does something.

        Only what differs from the defaults was said. This is for a command line, before
        :meth:`filled`: what a recipe fills in may well be without effect.

        Raises:
            UsageError: an option does nothing with the method; names both.
        """
        idle = [
            f"{_option(name)}{as_said(value)} does nothing with {_option(other)} {chosen}, only "
            f"with {' or '.join(among)}"
            for name, (other, among) in self.only_with.items()
            if (value := getattr(self, name)) != getattr(defaults, name)
            and (chosen := getattr(self, other)) not in among
        ]
        if idle:
            raise UsageError("; ".join(idle))

    def filled(self, suited: Mapping[str, Any]) -> Self:
        """A copy in which options of which nothing was said are what suits.

        Args:
            suited: values by option; the feedback model's rate is the network's unless it is there.

        Raises:
            UsageError: a value is outside its range.
        """
        said = {
            name: value
            for name in type(self).model_fields
            if self._said(name, value := getattr(self, name))
        }
        rate = said.get("learning_rate", suited["learning_rate"])
        return self.changed(**{"feedback_learning_rate": rate, **suited, **said})

    def _said(self, name: str, value: Any) -> bool:
        return value is not None and not (value == 0 and name in self.nothing_at_zero)


def shown(value: Any) -> str:
    """A value as an error shows it: without the end, where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:80]}…"


def check_range(option: str, value: int, least: int, most: int) -> None:
    """For the options that no settings hold.

    Raises:
        UsageError: the value is outside the range.
    """
    if value < least:
        raise UsageError(f"{option}: expected at least {least}, got {shown(value)}")
    if value > most:
        raise UsageError(f"{option}: expected at most {most}, got {shown(value)}")


def _line(error: Any) -> str:
    name = "-".join(str(part) for part in error["loc"][:1])
    text = error["msg"].removeprefix("Value error, ")
    return f"{_option(name)}: {text}, got {shown(error['input'])}" if name else text


def _option(name: str) -> str:
    """As on the command line."""
    return "--" + name.rstrip("_").replace("_", "-")


def as_said(value: Any) -> str:
    """What comes after an option: nothing after a flag, each number of several."""
    values = value if isinstance(value, tuple) else () if isinstance(value, bool) else (value,)
    return "".join(f" {one}" for one in values)
