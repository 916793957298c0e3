"""CIFAR-10's batches: Python 2 pickles, read without trusting them."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthgrad.lab.data.errors import DataError

# All that the six files name. numpy's reconstruction function is taken from an array, because
# numpy has moved the module that the files name.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows byte arrays and nothing else that could be called."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names the global {module_name}.{global_name}, which a batch of CIFAR-10 "
                "has no use for"
            ) from None


def parse(content: bytes, name: str) -> tuple[Tensor, Tensor]:
    """Parses one batch.

    Args:
        content: the file's bytes.
        name: the file, for messages.

    Returns:
        Images, uint8 ``(examples, 3, 32, 32)``, and labels, int64 ``(examples,)``.

    Raises:
        DataError: the pickle asks for anything but arrays, or does not hold such a batch.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise almost anything
        raise DataError(f"{name}: refused to unpickle: {error}") from error
    data, labels = (
        (batch.get(b"data"), batch.get(b"labels")) if isinstance(batch, dict) else (None, None)
    )
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.ndim != 2
        or data.shape[1] != 3 * 32 * 32
    ):
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{name}: its 'data' is {got}, expected uint8 (examples, 3072)")
    if not isinstance(labels, list) or [type(y) for y in labels] != [int] * len(data):
        raise DataError(f"{name}: its 'labels' are not a list of {len(data)} integers")
    return torch.tensor(data).reshape(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.int64)
