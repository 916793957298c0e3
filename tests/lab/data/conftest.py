"""Tiny data sets with checksums of their own, in place of the real ones."""

import gzip
import hashlib
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest

from synthgrad.lab.data import sources


def _idx_bytes(array):
    array = np.asarray(array, dtype=np.uint8)
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def _text(value):
    raw = value.encode() if isinstance(value, str) else value
    return pickle.BINSTRING + struct.pack("<i", len(raw)) + raw


def _int(value):
    return pickle.BININT + struct.pack("<i", value)


def _batch_bytes(data, labels):
    """A batch, opcode by opcode as the pickles of CIFAR-10's authors have them."""
    data = np.asarray(data, dtype=np.uint8)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + (
        _int(0) + pickle.TUPLE1 + _text("b") + pickle.TUPLE3 + pickle.REDUCE
    )
    dtype = (
        (b"cnumpy\ndtype\n" + _text("u1") + _int(0) + _int(1) + pickle.TUPLE3 + pickle.REDUCE)
        + (pickle.MARK + _int(3) + _text("|") + 3 * pickle.NONE + 2 * _int(-1) + _int(0))
        + (pickle.TUPLE + pickle.BUILD)
    )
    shape = pickle.MARK + b"".join(map(_int, data.shape)) + pickle.TUPLE
    array = (empty + pickle.MARK + _int(1) + shape + dtype + pickle.NEWFALSE) + (
        _text(data.tobytes()) + pickle.TUPLE + pickle.BUILD
    )
    numbers = b"".join(_int(y) if isinstance(y, int) else _text(y) for y in labels)
    return (
        (pickle.PROTO + b"\2" + pickle.EMPTY_DICT + pickle.MARK)
        + (_text("batch_label") + _text("tiny") + _text("labels"))
        + (pickle.EMPTY_LIST + pickle.MARK + numbers + pickle.APPENDS)
        + (_text("data") + array + pickle.SETITEMS + pickle.STOP)
    )


@pytest.fixture
def batch_bytes():
    return _batch_bytes


def _sum(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Registers contents as the true files of a data set, and puts them under tmp_path."""

    def put(name, contents, write=True, **changes):
        source = replace(
            sources.SOURCES[name], files={k: _sum(v) for k, v in contents.items()}, **changes
        )
        monkeypatch.setitem(sources.SOURCES, name, source)
        for file, content in contents.items() if write else ():
            path = source.path(tmp_path, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return source

    return put


@pytest.fixture
def tiny_mnist():
    """The four files: three images to train on and two to test."""
    x, y = np.arange(5 * 4).reshape(5, 2, 2) * 5 + 160, np.array([3, 0, 9, 1, 2])
    return {
        f"{part}-{kind}-ubyte.gz": gzip.compress(_idx_bytes(array))
        for part, rows in (("train", slice(0, 3)), ("t10k", slice(3, 5)))
        for kind, array in (("images-idx3", x[rows]), ("labels-idx1", y[rows]))
    }


@pytest.fixture
def tiny_cifar():
    """Five batches of two images each, and a test batch."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3072))
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    return {
        name: _batch_bytes(pixels[2 * i : 2 * i + 2], [i, i + 1]) for i, name in enumerate(names)
    }
