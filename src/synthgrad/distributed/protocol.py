"""What two neighbouring stages say to each other: frames, and the schema of what is in them."""

from __future__ import annotations

import ctypes
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from synthgrad.distributed.options import LONGEST_FINGERPRINT, MAX_WINDOW
from synthgrad.errors import SynthgradError

VERSION = 2
_LARGEST = 1 << 32
"""Bytes of a tensor that is sent."""
_LONGEST = LONGEST_FINGERPRINT
"""Characters of a string."""
_DIMENSIONS = 16
_RANGES = {"stages": (1, 1 << 20), "capacity": (1, MAX_WINDOW), "target_every": (0, 2**63 - 1)}
_WHOLE = {torch.bool} | {getattr(torch, f"{u}int{n}") for u in ("", "u") for n in (8, 16, 32, 64)}


class SchemaError(SynthgradError, ValueError):
    """Two neighbouring stages do not belong to the same pipeline; says in what they differ."""


class RecordError(SchemaError):
    """What stands in the store is nothing that any stage writes; says in which field."""


class Kind(IntEnum):
    """What a frame is."""

    TRAIN = 1
    """A message, with the labels of its batch."""
    EVAL = 2
    """The same, to be passed on without learning from it."""
    TARGET = 3
    """The error of a message."""
    BEAT = 4
    """A sign of life; every frame also says what has been used so far."""
    END = 5
    """All messages of the run came before this."""
    STOP = 6
    """The sender is about to leave; what it sent came before this."""
    DONE = 7
    """The stages above have finished the run."""
    BYE = 8
    """The last frame."""


@dataclass
class Frame:
    """What one stage says to another.

    Attributes:
        kind: what it is.
        step: which batch it belongs to.
        rows: examples in it that count; the others fill it up.
        first: whether it is the first of its evaluation.
        last: whether it is the last.
        final: whether it belongs to the evaluation that ends the run.
        number: of a message, given by its sender, which never gives it twice; of a target, that of
            the message it is for. A step may be sent again by a stage that was started anew.
        tensors: its contents.
        generation: of the connection that it came over; 0 for one that did not come.
    """

    kind: Kind
    step: int = 0
    rows: int = 0
    first: bool = False
    last: bool = False
    final: bool = False
    number: int = 0
    tensors: tuple[Tensor, ...] = ()
    generation: int = 0


@dataclass(frozen=True)
class Schema:
    """What goes over an edge. The lower stage says it, the upper one compares.

    Attributes:
        stages: how many there are.
        fingerprint: of the model and settings.
        shape: of a message, the batch first.
        dtype: of a message.
        wire: what it travels as.
        label_shape: of a batch's labels.
        label_dtype: of the labels.
        capacity: frames that may be on their way in each direction.
        target_every: targets come for every so manieth message; 0 for none.
        version: of the protocol.
    """

    stages: int
    fingerprint: str
    shape: tuple[int, ...]
    dtype: str
    wire: str
    label_shape: tuple[int, ...]
    label_dtype: str
    capacity: int
    target_every: int
    version: int = VERSION

    def to_json(self) -> str:
        """As it stands in the store."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: Any) -> Schema:
        """The inverse of :meth:`to_json`.

        Raises:
            SchemaError: it is of another version.
            RecordError: it is no schema at all.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            raise RecordError(f"the schema is not JSON, but {shortened(text)}") from None
        if not isinstance(values, dict):
            raise RecordError(f"the schema is {shortened(values)}, expected an object")
        version = values.get("version")
        if version != VERSION or isinstance(version, bool):
            raise SchemaError(
                f"the other stage speaks version {shortened(version)}, this one {VERSION}"
            )
        if values.keys() != {f.name for f in fields(cls)}:
            found = shortened(sorted(map(str, values)))
            raise RecordError(
                f"the schema has the fields {found}, expected {sorted(f.name for f in fields(cls))}"
            )
        for name in ("stages", "capacity", "target_every"):
            low, high = _RANGES[name]
            if type(values[name]) is not int or not low <= values[name] <= high:
                raise RecordError(
                    f"{name} is {shortened(values[name])}, expected a whole number from {low} to "
                    f"{high}"
                )
        for name in ("fingerprint", "dtype", "wire", "label_dtype"):
            if not isinstance(values[name], str) or len(values[name]) > _LONGEST:
                raise RecordError(
                    f"{name} is {shortened(values[name])}, expected a string of at most {_LONGEST}"
                )
        for name, dtypes in (("shape", ("dtype", "wire")), ("label_shape", ("label_dtype",))):
            values[name] = _shape(name, values[name], [values[dtype] for dtype in dtypes])
        for name in ("dtype", "wire"):
            if not named_dtype(values[name]).is_floating_point:
                raise RecordError(f"{name} is {values[name]!r}, expected a floating-point type")
        return cls(**values)

    @property
    def check(self) -> int:
        """A number that every frame carries."""
        return zlib.crc32(self.to_json().encode())

    def differences(self, expected: Schema | dict[str, Any]) -> str:
        """In what this schema differs; empty if in nothing."""
        there = expected if isinstance(expected, dict) else asdict(expected)
        here = asdict(self)
        return "; ".join(
            f"{name} is {here[name]!r}, expected {value!r}"
            for name, value in there.items()
            if here[name] != value
        )

    def message(self) -> Layout:
        """How a message lies in memory: h and the labels."""
        return Layout([(self.shape, self.wire), (self.label_shape, self.label_dtype)])

    def target(self, with_message: bool) -> Layout:
        """How a target lies in memory: the error; and the message it is for, with its labels."""
        error = (self.shape, self.wire)
        if not with_message:
            return Layout([error])
        return Layout([error, error, (self.label_shape, self.label_dtype)])


def _shape(name: str, value: Any, dtypes: Sequence[str]) -> tuple[int, ...]:
    """A shape out of a record.

    Raises:
        RecordError: it is none, or that of a tensor too large to be sent.
    """
    dimensions = isinstance(value, list) and len(value) <= _DIMENSIONS
    if not dimensions or not all(type(n) is int and 0 <= n <= _LARGEST for n in value):
        raise RecordError(
            f"{name} is {shortened(value)}, expected at most {_DIMENSIONS} whole numbers of at "
            f"least 0"
        )
    size = math.prod(value) * max(named_dtype(dtype).itemsize for dtype in dtypes)
    if size > _LARGEST:
        raise RecordError(f"{name} is {value}: {size} bytes, expected at most {_LARGEST}")
    return tuple(value)


def shortened(value: Any) -> str:
    """What came, for an error; of what is long, the beginning."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, or lists in lists
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


class Layout:
    """Where the tensors of a frame lie in one buffer.

    Args:
        parts: shape and dtype of each.
        start: bytes in front of them, for something else.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], str]], start: int = 0) -> None:
        self._parts = list(parts)
        self._dtypes = [named_dtype(name) for _, name in parts]
        self._places: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []
        self.size = start
        for (shape, _), dtype in zip(parts, self._dtypes, strict=True):
            strides = torch.empty(tuple(shape), device="meta").stride()
            self._places.append((tuple(shape), strides, self.size // dtype.itemsize))
            length = torch.Size(shape).numel() * dtype.itemsize
            self.size += -(-length // 16) * 16

    def behind(self, start: int) -> Layout:
        """The same, so many bytes further back."""
        return Layout(self._parts, start)

    def room(self, device: torch.device | str = "cpu") -> Room:
        """A buffer for one frame."""
        # In few steps: on a busy machine each of them costs microseconds.
        first = self._dtypes[0] if self._dtypes else torch.uint8
        buffer = torch.empty(max(self.size, 16) // first.itemsize, dtype=first, device=device)
        views = []
        for dtype, place in zip(self._dtypes, self._places, strict=True):
            views.append((buffer if dtype == first else buffer.view(dtype)).as_strided(*place))
        return Room(buffer, views)


@dataclass
class Room:
    """One frame's buffer, and its parts as tensors."""

    buffer: Tensor
    views: list[Tensor]

    @cached_property
    def memory(self) -> Any:
        """The buffer as bytes, which are quicker to fill than a tensor; where it is on the CPU."""
        return (ctypes.c_char * self.buffer.nbytes).from_address(self.buffer.data_ptr())

    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Copies as many tensors as there are views, to the types that travel."""
        for view, tensor in zip(self.views, tensors, strict=True):
            view.copy_(tensor)


def dtype_name(dtype: torch.dtype) -> str:
    """As in "float32"."""
    return str(dtype).removeprefix("torch.")


def named_dtype(name: str) -> torch.dtype:
    """The inverse of :func:`dtype_name`.

    Raises:
        RecordError: there is no such type, or none of its tensors can be sent.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not (
        dtype.is_floating_point or dtype.is_complex or dtype in _WHOLE
    ):
        raise RecordError(f"there is no tensor type {shortened(name)} that can be sent")
    return dtype
