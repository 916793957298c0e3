"""How many bytes of activations a training step keeps alive at its peak.

Resident memory would hide it: the allocator keeps freed blocks. So the tensors themselves are
counted while they live.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from synthgrad.decouple import decouple
from synthgrad.lab.experiments.feed_forward import fcn, hidden_name
from synthgrad.schedule import Unlocked

# The batch differs from every width, so that an activation is known by its first axis.
BATCH, INPUTS, UNITS, CLASSES = 192, 784, 256, 10


class LiveActivations(TorchDispatchMode):
    """Counts the bytes of activations that operations inside the block make, while they live.

    Attributes:
        now: bytes alive.
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_address(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.ndim > 1 and len(tensor) == BATCH:
                self._count(tensor, given)
        return result

    def _count(self, tensor: Tensor, given: set[int]) -> None:
        address = _address(tensor)
        if address in self._alive or address in given:
            return
        storage = tensor.untyped_storage()
        self._alive[address] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, address)

    def _free(self, address: int) -> None:
        self.now -= self._alive.pop(address, 0)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def peak_activation_bytes(layers: int, *, unlocked: bool) -> int:
    """The peak of one training step of a fully connected network.

    Args:
        layers: its depth, as the paper counts.
        unlocked: linear cDNI behind each hidden layer, trained by ``Unlocked``; else
            backpropagation.
    """
    torch.manual_seed(0)
    model: nn.Module = fcn(INPUTS, UNITS, layers, CLASSES)
    x, y = torch.rand(BATCH, INPUTS), torch.randint(CLASSES, (BATCH,))
    adam = partial(torch.optim.Adam, lr=1e-4)
    if unlocked:
        cuts = [hidden_name(i) for i in range(1, layers)]
        schedule = Unlocked(decouple(model, cuts, "linear", context=CLASSES), adam)

        def step() -> None:
            schedule.step(x, lambda output: F.cross_entropy(output, y), y)
    else:
        optimizer = adam(model.parameters())

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    step()  # makes the optimisers' states, and finds the segments
    with LiveActivations() as live:
        step()
    return live.peak
