"""The IDX format of MNIST and Fashion-MNIST: big-endian dimensions, then the bytes.

Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib

import torch
from torch import Tensor

from synthgrad.lab.data.errors import DataError

_UNSIGNED_BYTE = 0x08


def parse(content: bytes, ndim: int, name: str) -> Tensor:
    """Parses an IDX file of unsigned bytes.

    Args:
        content: the file's bytes, not compressed.
        ndim: how many dimensions it must have.
        name: the file, for messages.

    Returns:
        uint8 of the shape that the file gives.

    Raises:
        DataError: the magic number, the element type, the number of dimensions or the length is
            not what the format says.
    """
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(f"{name}: {len(content)} bytes, expected at least {header} of IDX header")
    if (magic := content[:4]) != (expected := bytes([0, 0, _UNSIGNED_BYTE, ndim])):
        raise DataError(
            f"{name}: magic number 0x{magic.hex()}, expected 0x{expected.hex()} "
            f"(unsigned bytes in {ndim} dimension{'s' * (ndim > 1)})"
        )
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{name}: {len(content) - header:,} bytes of data, expected {math.prod(shape):,} "
            f"for the shape {shape}"
        )
    # From a bytearray, because the tensor must own memory that it may write to.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].reshape(shape)


def parse_gzip(content: bytes, ndim: int, name: str) -> Tensor:
    """Parses a gzip-compressed IDX file; as :func:`parse`.

    Raises:
        DataError: also if the file is not gzip, or is cut off.
    """
    try:
        return parse(gzip.decompress(content), ndim, name)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: not a whole gzip file: {error}") from error
