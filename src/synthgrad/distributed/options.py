"""What is the same for every stage of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from synthgrad import _checks
from synthgrad.errors import ArgumentError

MAX_WINDOW = 128
"""The most messages in flight that ``window="auto"`` may choose."""

UNTIL_MEASURED = 8
"""Messages in flight with ``window="auto"``, before the round trip is known."""


LONGEST_FINGERPRINT = 4096
_LONGEST_TIMEOUT = 1e6
"""Seconds: eleven days. The libraries below count in nanoseconds, or in days, and overflow."""


def time_to_stop(timeout: float) -> float:
    """Seconds that a stage may take to stop: it waits for its neighbours, then for their goodbye.

    Args:
        timeout: as in :class:`Options`.
    """
    return 2 * timeout + 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the stages of a pipeline talk to each other.

    Attributes:
        window: messages that a stage may have sent and that the next one has not used yet: the
            only thing for which a stage waits for one after it. A target is at most this many
            steps old. "auto" follows the measured round trip: what it takes, and four more.
        target_every: targets come back for every so manieth message only.
        message_dtype: what messages and targets travel as, such as ``torch.bfloat16``; None for
            their own.
        synchronous: wait for the target of each message before the next step. With ``window=1``
            the stages then compute what :class:`synthgrad.Unlocked` computes, to the last bit.
        alone: steps for which a stage goes on without the next one before it waits for it; None for
            as many as it has. Messages that nobody is there for are lost for the stages above.
        timeout: seconds without a sign of life after which the process at the other end of an
            edge counts as gone, and for which a full window is waited for.
        patience: seconds for which a stage waits for one that is gone, if it cannot go on
            without, before it gives up.
        checkpoint_every: seconds between checkpoints, where there is a folder for them.
        folder: where each stage has a folder ``stage-0``, … with its ``status.json`` and its
            checkpoints; None for none.
        interface: the network interface to listen on, as in "eth0"; None for that from which the
            store is reached (loopback, where the store is on loopback).
        transport: "auto" sends tensors from GPU to GPU with NCCL where the two ends of an edge have
            one each; "gloo" through the CPU in any case.
        check_finite: whether NaN and infinity in batches, messages, errors, losses and gradients
            are refused before a weight, a statistic or an optimiser takes them in.
        fingerprint: anything that says which model and settings this is. Stages with different
            ones refuse to talk.

    Raises:
        ArgumentError: a value is outside its range.
    """

    window: int | Literal["auto"] = 8
    target_every: int = 1
    message_dtype: torch.dtype | None = None
    synchronous: bool = False
    alone: int | None = None
    timeout: float = 10.0
    patience: float = 120.0
    checkpoint_every: float = 10.0
    folder: Path | None = None
    interface: str | None = None
    transport: Literal["auto", "gloo"] = "auto"
    check_finite: bool = True
    fingerprint: str = ""

    def __post_init__(self) -> None:
        window = self.window
        if not (isinstance(window, str) and window == "auto"):
            _checks.integer('window must be "auto" or else', window, 1, MAX_WINDOW)
        _checks.integer("target_every", self.target_every, 1)
        if self.alone is not None:
            _checks.integer("alone", self.alone, 0)
        _checks.flag("synchronous", self.synchronous)
        if self.synchronous and self.target_every != 1:
            raise ArgumentError(
                "synchronous stages wait for the target of each message, so target_every must be "
                f"1, got {self.target_every!r}"
            )
        for name, most in (
            ("timeout", _LONGEST_TIMEOUT),
            ("patience", math.inf),
            ("checkpoint_every", math.inf),
        ):
            seconds = getattr(self, name)
            number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
            if not number or not 0 < seconds <= most:
                limit = "" if most == math.inf else f" of at most {most:g}"
                raise ArgumentError(
                    f"{name} must be a positive number of seconds{limit}, got {seconds!r}"
                )
        _checks.word("transport", self.transport, ("auto", "gloo"))
        dtype = self.message_dtype
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ArgumentError(
                f"message_dtype must be a floating-point type, got {_checks.came(dtype)}"
            )
        if self.folder is not None:
            _checks.of_kind("folder", self.folder, Path, "a pathlib.Path")
        if self.interface is not None:
            _checks.text("interface", self.interface)
        if len(_checks.text("fingerprint", self.fingerprint)) > LONGEST_FINGERPRINT:
            raise ArgumentError(
                f"fingerprint must be a string of at most {LONGEST_FINGERPRINT} characters, got "
                f"{self.fingerprint!r:.80}"
            )
        _checks.flag("check_finite", self.check_finite)

    @property
    def capacity(self) -> int:
        """Frames for which an edge has room in each direction."""
        return MAX_WINDOW if self.window == "auto" else self.window

    def stage_folder(self, index: int) -> Path | None:
        """Where one stage keeps its things."""
        return None if self.folder is None else self.folder / f"stage-{index}"
