"""A state of plain containers and tensors as one tensor of bytes.

Whoever walks over a ``state_dict`` (averages, federated clients, safetensors, Accelerate, the
Transformers Trainer) expects tensors and nothing else. What is carried from step to step is more
than that: messages that wait, labels, counts, structure.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import pickle
import sys
from typing import Any

import torch
from torch import Tensor

_DIGEST = 16
_HEAD = 8 + _DIGEST
# In whole pages, so that states of one kind are equally long, and can be put side by side.
_PAGE = 4096


def packed(state: Any) -> Tensor:
    """Bytes, ``UInt8[Tensor, "bytes"]``: length, checksum, and what ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    data = len(data).to_bytes(8, "little") + _digest(data) + data
    data += bytes(-len(data) % _PAGE)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def unpacked(tensor: Tensor) -> Any:
    """What :func:`packed` was given, on the CPU.

    Only tensors, plain containers and named tuples are made, and nothing else is run.

    Raises:
        ValueError: these are not the bytes of one state, but an average of several, say.
    """
    tensor = tensor.detach().cpu().to(torch.uint8).contiguous()
    data = ctypes.string_at(tensor.data_ptr(), tensor.numel()) if tensor.numel() else b""
    length = int.from_bytes(data[:8], "little")
    content = data[_HEAD : _HEAD + length]
    if len(content) != length or data[8:_HEAD] != _digest(content):
        raise ValueError("they do not have their checksum")
    buffer = io.BytesIO(content)
    named = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
    buffer.seek(0)
    try:
        with torch.serialization.safe_globals([_named_tuple(name) for name in named]):
            return torch.load(buffer, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None


def _named_tuple(name: str) -> type:
    """A named tuple that this process knows already.

    Raises:
        ValueError: it is something else.
    """
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    if not (isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise ValueError(f"{name} is no named tuple that is known here")
    return found


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_DIGEST]
