import os
import pickle

import numpy as np
import pytest
import torch

from synthgrad.lab.data import DataError
from synthgrad.lab.data.batch import parse


def test_parses_images_channel_first(batch_bytes):
    data = np.arange(2 * 3072) % 251
    x, y = parse(batch_bytes(data.reshape(2, 3072), [7, 3]), "b")
    assert x.shape == (2, 3, 32, 32)
    assert x.dtype == torch.uint8
    assert x[1, 2, 31, 30] == data[3072 + 2 * 1024 + 31 * 32 + 30]
    assert y.tolist() == [7, 3]
    assert y.dtype == torch.int64


class _Malicious:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (_Malicious(os.system, "touch {path}"), "system"),
        (_Malicious(eval, "open('{path}', 'w')"), "__builtin__.eval"),
        (_Malicious(getattr, "{path}", "title"), "__builtin__.getattr"),
        (_Malicious(np.load, "{path}"), "numpy.load"),
        (b"cos\nsystem\n(S'touch {path}'\ntR.", "os.system"),
    ],
)
def test_malicious_pickle_is_refused_and_not_run(payload, name, tmp_path):
    path = tmp_path / "touched"
    if isinstance(payload, bytes):
        content = payload.replace(b"{path}", str(path).encode())
    else:
        payload.arguments = tuple(a.format(path=path) for a in payload.arguments)
        content = pickle.dumps({"data": payload}, protocol=2)
    with pytest.raises(DataError, match=f"it names the global .*{name}"):
        parse(content, "batch")
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda _: b"", "refused to unpickle"),
        (lambda batch: batch(np.zeros((1, 3072)), [1])[:200], "refused to unpickle"),
        (lambda _: pickle.dumps([1], protocol=2), "'data' is NoneType"),
        (lambda batch: batch(np.zeros((1, 3071)), [1]), r"'data' is uint8 \(1, 3071\)"),
        (lambda batch: batch(np.zeros((2, 3072)), [1]), "not a list of 2 integers"),
        (lambda batch: batch(np.zeros((1, 3072)), ["1"]), "not a list of 1 integers"),
    ],
)
def test_what_is_not_a_batch_is_refused(content, message, batch_bytes):
    with pytest.raises(DataError, match=f"name-of-file: .*{message}"):
        parse(content(batch_bytes), "name-of-file")
