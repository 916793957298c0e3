"""NCCL, for :mod:`._gloo_direct`. It has never run: there was no machine for it."""

from __future__ import annotations

import os
import socket
import threading
import time
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.cuda import nccl

from synthgrad.distributed.options import Options
from synthgrad.distributed.transport._gloo_direct import DataGroup, Endpoint

_POLL = 5e-5


class Nccl:
    """Groups over NCCL, where this build of torch has it and the options do not forbid it.

    Args:
        device: where the tensors of this end are.
        options: the run's.
    """

    def __init__(self, device: torch.device, options: Options) -> None:
        self.device = device
        self._timeout = options.timeout
        wanted = options.transport == "auto" and torch.distributed.is_available()
        usable = wanted and device.type == "cuda" and torch.distributed.is_nccl_available()
        library = f"nccl {nccl.version()}" if usable else ""
        self.endpoint = Endpoint(device.type, _place(device), library)

    def group(self, store: Any, rank: int) -> DataGroup:
        """A group of this process and the other; rank 0 sends."""
        return NcclGroup(store, rank, self.device, self._timeout)


class NcclGroup:
    """One direction, on a communicator of its own.

    What is begun goes to the communicator's stream, in order. That a transfer is over is seen by
    an event behind it. One whose other end died is never over: it takes an abort to end it.

    Args:
        store: for the two ends alone.
        rank: 0 sends.
        device: this end's.
        timeout: seconds to wait for a transfer.
    """

    def __init__(self, store: Any, rank: int, device: torch.device, timeout: float) -> None:
        from torch.distributed import ProcessGroupNCCL  # not in every build

        # A lost peer is our business: by default its watchdog would end this process.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        options = ProcessGroupNCCL.Options()
        options._timeout = timedelta(seconds=10 * timeout)  # ours comes first
        self._group: Any = ProcessGroupNCCL(store, rank, 2, options)
        self._peer, self._timeout = 1 - rank, timeout
        self._stream = torch.cuda.Stream(device)
        self._closed = threading.Event()

    def send(self, tensor: Tensor) -> Any:
        """Begins to send a tensor, once what computes it on the current stream is done."""
        return self._group.send([tensor], self._peer, 0)

    def receive(self, tensor: Tensor) -> Any:
        """Begins to receive one."""
        return self._group.recv([tensor], self._peer, 0)

    def wait(self, work: Any) -> None:
        """Waits until it is done.

        Raises:
            RuntimeError: it took longer than the timeout, or the group was closed.
        """
        with torch.cuda.stream(self._stream):
            work.wait()  # makes the stream wait, not this thread
            done = torch.cuda.Event()
            done.record()
        end = time.monotonic() + self._timeout
        while not done.query():
            if self._closed.is_set() or time.monotonic() > end:
                break
            time.sleep(_POLL)
        else:
            if not self._closed.is_set():  # or else it may have been ended, not finished
                return
        raise RuntimeError(f"Timed out waiting {self._timeout:g} s for a transfer between GPUs")

    def close(self) -> None:
        """Ends what goes on. In a thread, since it may take long where the other end is gone."""
        if not self._closed.is_set():
            self._closed.set()
            threading.Thread(target=self._group.abort, name="abort", daemon=True).start()


def _place(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    found = torch.cuda.get_device_properties(device)
    which = getattr(found, "uuid", None) or f"{torch.cuda.current_device()} {device.index}"
    return f"{socket.gethostname()} {which}"
