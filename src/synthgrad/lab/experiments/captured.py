"""A training step that is recorded once and then replayed, as a CUDA graph.

Replaying leaves out all that Python does in a step, which takes longer than the arithmetic of a
small network. What a recording cannot hold is seen to here: Python's own counts, which are
advanced by hand, and numbers that were baked in, after whose change the step is recorded anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Protocol

import torch

from synthgrad.errors import SynthgradError, SynthgradWarning
from synthgrad.interface import Interface

WARM_UP = 3
"""Steps before a recording, done as usual: all that is made at first use is made by them."""

Work = Callable[[], None]


class Recorder(Protocol):
    """How work on a device is recorded."""

    def warm(self, work: Work) -> None:
        """Does the work, in the way that prepares for recording it."""

    def record(self, work: Work) -> Work:
        """Calls ``work`` and notes what it asks of the device, which is not done.

        Returns:
            What does it: any number of times, on the same memory.

        Raises:
            RuntimeError: it asks for something that cannot be recorded.
        """
        ...


class CudaGraphs:
    """Records work on a GPU as CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        # One stream for everything: autograd accumulates a gradient on the stream of its first use.
        self._stream = torch.cuda.Stream(device)
        self._device = device

    def warm(self, work: Work) -> None:
        """Does the work on the stream that will record."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            work()
        here.wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        """Captures a graph; the result replays it on the current stream."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            work()
        return graph.replay


def recorder_for(device: torch.device, wish: str) -> Recorder | None:
    """What records steps on a device, if ``wish``, "auto" or "no", is not against it."""
    return CudaGraphs(device) if device.type == "cuda" and wish == "auto" else None


class CapturedStep:
    """A training step on inputs that stay in place.

    It equals calling ``work`` each time. Where that cannot be recorded, it says so once and goes
    on calling it.

    Args:
        work: one step; reads its inputs from where they are and returns nothing. Its only effects
            outside the device are the interfaces' counts of steps.
        interfaces: those that it runs, each once.
        recorder: how it is recorded.
    """

    def __init__(self, work: Work, interfaces: Iterable[Interface], recorder: Recorder) -> None:
        self._work = work
        self._interfaces = list(interfaces)
        # Only these can change what they are; a number is what it was.
        self._changing = [i for i in self._interfaces if callable(i.lambda_)]
        self._recorder: Recorder | None = recorder
        self.forget()

    def forget(self) -> None:
        """Records anew: needed where tensors that the step works on were exchanged."""
        self._warm = 0
        self._replay: Work | None = None
        self._lambdas: list[float] = []
        self._advance: list[int] = []

    def __call__(self) -> None:
        """One step."""
        if self._recorder is None:
            self._work()
            return
        lambdas = [interface.current_lambda() for interface in self._changing]
        if lambdas != self._lambdas:
            self.forget()
            self._lambdas = lambdas
        if self._warm < WARM_UP:
            self._warm += 1
            self._recorder.warm(self._work)
        elif self._replay is None:
            self._record(self._recorder)
        else:
            for interface, steps in zip(self._interfaces, self._advance, strict=True):
                interface.step += steps
            self._replay()

    def _record(self, recorder: Recorder) -> None:
        before = [interface.step for interface in self._interfaces]
        try:
            self._replay = recorder.record(self._work)
        except RuntimeError as error:
            if isinstance(error, SynthgradError):
                raise
            for interface, step in zip(self._interfaces, before, strict=True):
                interface.step = step
            self._recorder = None
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            warnings.warn(
                f"the training step cannot be captured as a CUDA graph, and runs without, "
                f"several times slower: {reason[0]}",
                SynthgradWarning,
                stacklevel=4,
            )
            self._work()
            return
        # Python has counted the step that was recorded, which is the one that is done now.
        after = [interface.step for interface in self._interfaces]
        self._advance = [b - a for a, b in zip(before, after, strict=True)]
        self._replay()
