import hashlib
import subprocess
import sys

import pytest
import torch

from synthgrad.errors import ArgumentError
from synthgrad.lab.data import DataError, DataSet, load, names
from synthgrad.lab.data.files import data_root
from synthgrad.lab.data.sources import SOURCES


def test_digits_split_is_fixed_and_stratified():
    digits = load("digits")
    assert digits.train_x.shape == (1437, 1, 8, 8)
    assert digits.test_x.shape == (360, 1, 8, 8)
    assert digits.train_x.dtype == torch.float32
    assert digits.train_y.dtype == torch.int64
    assert (digits.train_x.min(), digits.train_x.max()) == (0, 1)
    everything = digits.train_y.bincount() + digits.test_y.bincount()
    share = digits.test_y.bincount() / everything
    assert (share - 360 / 1797).abs().max() < 0.003
    # A change of the split would make runs incomparable: it must not pass unseen.
    content = digits.test_x.numpy().tobytes() + digits.test_y.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "8110e5c2c9d024b5"


def test_idx_data_set_is_scaled_and_ordered(put, tiny_mnist, tmp_path):
    put("mnist", tiny_mnist)
    data = load("mnist", tmp_path)
    assert data.train_x.shape == (3, 1, 2, 2)
    assert data.test_x.shape == (2, 1, 2, 2)
    assert data.train_y.tolist() == [3, 0, 9]
    assert data.test_y.tolist() == [1, 2]
    torch.testing.assert_close(
        data.train_x[0, 0], torch.tensor([[160.0, 165.0], [170.0, 175.0]]) / 255
    )
    assert data.test_x.max() == 1


def test_batches_are_joined_in_order(put, tiny_cifar, tmp_path):
    put("cifar10", tiny_cifar)
    data = load("cifar10", str(tmp_path))
    assert data.train_x.shape == (10, 3, 32, 32)
    assert data.train_y.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert data.test_x.shape == (2, 3, 32, 32)
    assert data.test_y.tolist() == [5, 6]


def test_tensors_live_on_the_device(put, tiny_mnist, tmp_path):
    put("mnist", tiny_mnist)
    for data in (load("mnist", tmp_path, device="cpu"), load("digits")):
        tensors = (data.train_x, data.train_y, data.test_x, data.test_y)
        assert {t.device.type for t in tensors} == {"cpu"}


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_tensors_live_on_the_gpu(name, put, tiny_mnist, tmp_path):
    put("fashion-mnist", tiny_mnist)
    data = load(name, tmp_path, device="cuda")
    assert data.train_x.is_cuda
    assert data.test_y.is_cuda


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + b"?", lambda b: b""])
def test_damaged_file_is_named_with_both_checksums(damage, put, tiny_mnist, tmp_path):
    source = put("mnist", tiny_mnist)
    path = source.path(tmp_path, "t10k-labels-idx1-ubyte.gz")
    broken = damage(path.read_bytes())
    path.write_bytes(broken)
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    message = str(caught.value)
    assert str(path) in message
    assert hashlib.sha256(broken).hexdigest() in message
    assert source.files[path.name] in message
    assert "Delete the file" in message
    assert path.read_bytes() == broken  # a file of the user's is never overwritten


def test_file_that_cannot_be_read_is_named(put, tiny_mnist, tmp_path):
    source = put("mnist", tiny_mnist)
    path = source.path(tmp_path, "train-images-idx3-ubyte.gz")
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=f"cannot read {path}"):
        load("mnist", tmp_path)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ArgumentError, match=r"'mnits'.*digits, mnist, fashion-mnist, cifar10"):
        load("mnits")
    assert set(names()) == {"digits", *SOURCES}


def test_root_is_argument_then_variable_then_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SYNTHGRAD_DATA", "/somewhere")
    assert data_root(tmp_path) == tmp_path
    assert str(data_root()) == "/somewhere"
    monkeypatch.delenv("SYNTHGRAD_DATA")
    assert data_root().name == "synthgrad"


def test_data_set_that_does_not_fit_is_refused():
    x, y = torch.zeros(2, 1, 1, 1), torch.tensor([0, 1])
    with pytest.raises(DataError, match=r"train images \(2, 1, 1, 1\) and labels \(1,\)"):
        DataSet("tiny", x, y[:1], x, y, 2)
    with pytest.raises(DataError, match="test labels run from 0 to 1, expected 0 to 0"):
        DataSet("tiny", x, y * 0, x, y, 1)


def test_imports_leave_the_heavy_libraries_alone():
    heavy = ["jinja2", "matplotlib", "pooch", "requests", "sklearn"]
    code = (
        "import sys, synthgrad.lab.data, synthgrad.lab.report;"
        f"sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
