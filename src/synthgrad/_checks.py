"""Looks at what a user passes: each check returns it, or says what came and what was expected.

Numbers of numpy count as numbers where they are integral or real; a bool is no number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from synthgrad.errors import ArgumentError, ShapeError

T = TypeVar("T")


def came(value: Any) -> str:
    """A value in the words of an error: a tensor by type and shape, other things by themselves."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return shortened(value)
    if isinstance(value, Real):
        return f"{type(value).__name__} {value}"
    return f"an object of type {type(value).__name__}"


def shortened(value: Any) -> str:
    """How Python writes a value, without the rest of what is long."""
    if isinstance(value, int) and abs(value) > 10**40:  # Python refuses to write the longest
        return "an integer of more than 40 digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """An integer, as Python's own.

    Raises:
        ArgumentError: it is none, or outside of the range.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        found = int(value)
        if (least is None or found >= least) and (most is None or found <= most):
            return found
    ends = "" if least is None else f" of at least {least}"
    ends += "" if most is None else f" and at most {most}"
    raise ArgumentError(f"{name} must be an integer{ends}, got {came(value)}")


def sizes(name: str, values: Any, least: int = 1) -> list[int]:
    """Some integers.

    Raises:
        ArgumentError: it is no list or tuple of such.
    """
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping | Tensor):
        raise ArgumentError(f"{name} must be a list of integers, got {came(values)}")
    return [integer(name, value, least) for value in values]


def number(
    name: str, value: Any, least: int | float = -math.inf, most: int | float = math.inf
) -> float:
    """A finite number.

    Raises:
        ArgumentError: it is none, or outside of the range.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if math.isfinite(found) and least <= found <= most:
            return found
    ends = f" of at least {least:g}" if least > -math.inf else ""
    ends += f" and at most {most:g}" if most < math.inf else ""
    raise ArgumentError(f"{name} must be a finite number{ends}, got {came(value)}")


def flag(name: str, value: Any) -> bool:
    """True or False.

    Raises:
        ArgumentError: it is neither.
    """
    if isinstance(value, bool):
        return value
    raise ArgumentError(f"{name} must be True or False, got {came(value)}")


def word(name: str, value: Any, words: Sequence[str]) -> str:
    """One of several words.

    Raises:
        ArgumentError: it is none of them.
    """
    if isinstance(value, str) and value in words:
        return value
    expected = " or ".join(f'"{one}"' for one in words)
    raise ArgumentError(f"{name} must be {expected}, got {came(value)}")


def text(name: str, value: Any) -> str:
    """A string.

    Raises:
        ArgumentError: it is none.
    """
    return of_kind(name, value, str, "a string")


def of_kind(name: str, value: Any, kind: type[T], expected: str) -> T:
    """An object of a class.

    Raises:
        ArgumentError: it is of another.
    """
    if isinstance(value, kind):
        return value
    raise ArgumentError(f"{name} must be {expected}, got {came(value)}")


def module(name: str, value: Any) -> nn.Module:
    """A module.

    Raises:
        ArgumentError: it is none.
    """
    return of_kind(name, value, nn.Module, "a torch.nn.Module")


def mapping(name: str, value: Any) -> Mapping[Any, Any]:
    """A dictionary or the like.

    Raises:
        ArgumentError: it is none.
    """
    return of_kind(name, value, Mapping, "a mapping")


def sequence(name: str, value: Any) -> list[Any]:
    """A list or a tuple, as a list.

    Raises:
        ArgumentError: it is none.
    """
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(value)
    raise ArgumentError(f"{name} must be a list, got {came(value)}")


def functions(**values: Any) -> None:
    """Functions, by name; None is none and passes.

    Raises:
        ArgumentError: something else is among them.
    """
    for name, value in values.items():
        if value is not None and not callable(value):
            raise ArgumentError(f"{name} must be a function, got {came(value)}")


def function(name: str, value: Any) -> None:
    """A function, and not None.

    Raises:
        ArgumentError: it is none.
    """
    if not callable(value):
        raise ArgumentError(f"{name} must be a function, got {came(value)}")


def loss(value: Any) -> Tensor:
    """What a user's loss function returned: a scalar, or one loss per example.

    Raises:
        ShapeError: it is something else.
    """
    if isinstance(value, Tensor) and value.is_floating_point() and value.ndim <= 1:
        return value
    raise ShapeError(
        f"a loss function must return a scalar tensor, or one loss per example, got {came(value)}"
    )


def is_dense(value: Any) -> bool:
    """Whether it is a tensor of real floating-point numbers, held one beside the other."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided


def dense(name: str, value: Any) -> Tensor:
    """A dense tensor of real numbers.

    Raises:
        ShapeError: it is none.
    """
    if is_dense(value):
        return value
    layout = f" ({value.layout})" if isinstance(value, Tensor) else ""
    raise ShapeError(f"{name} must be a dense floating-point tensor, got {came(value)}{layout}")


def alike(**tensors: Any) -> None:
    """Dense tensors of one shape on one device.

    Raises:
        ShapeError: one is none, or they differ.
    """
    (first, like), *others = tensors.items()
    dense(first, like)
    for name, tensor in others:
        dense(name, tensor)
        if tensor.shape != like.shape or tensor.device != like.device:
            raise ShapeError(
                f"{first} has shape {tuple(like.shape)} on {like.device}, {name} "
                f"{tuple(tensor.shape)} on {tensor.device}; expected the same"
            )


def suits(model: nn.Module, h: Any, weight: Tensor | None = None) -> Tensor:
    """A message that a feedback model can be given: dense, and where and in what it computes.

    Args:
        model: the feedback model.
        h: the message.
        weight: a parameter of the model; None where it has none.

    Raises:
        ShapeError: it is no such message.
    """
    dense(f"the message for the feedback model {type(model).__name__}", h)
    if weight is not None:
        place = (h.device, h.dtype), (weight.device, weight.dtype)
        if place[0] != place[1] and (
            h.device != weight.device or not torch.is_autocast_enabled(h.device.type)
        ):
            raise ShapeError(
                f"the feedback model {type(model).__name__} is {weight.dtype} on {weight.device}, "
                f"got a message that is {h.dtype} on {h.device}; expected the same"
            )
    return h


def affordable(what: str, numbers: int) -> None:
    """Refuses models whose parameters this machine cannot hold.

    Args:
        what: the model with its sizes.
        numbers: how many parameters it would have.

    Raises:
        ArgumentError: they are more than fit into the machine's memory.
    """
    if torch.get_default_device().type != "cpu":
        return
    needed = numbers * torch.get_default_dtype().itemsize
    there = _memory()
    if needed > there:
        raise ArgumentError(
            f"{what} would need {needed / 1e9:,.0f} GB for its parameters, and this machine has "
            f"{there / 1e9:,.0f} GB"
        )


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system says
        return 2**47
