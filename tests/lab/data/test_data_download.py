"""Downloads, from a server on this machine: nothing here needs the network."""

import functools
import hashlib
import http.server
import io
import os
import socket
import tarfile
import threading
import time

import pytest

from synthgrad.lab.data import DataError, download, load


@pytest.fixture
def home(tmp_path_factory):
    """A folder that is served, its address, and what was asked for."""
    folder = tmp_path_factory.mktemp("home")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            if format.startswith('"%s"'):
                asked.append(f"{self.command} {self.path}")

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def nobody():
    """An address that refuses the connection."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take it
        yield f"http://127.0.0.1:{held.getsockname()[1]}/"


def _tar(contents, folder="cifar-10-batches-py"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _files(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_missing_files_and_only_they_are_downloaded(home, put, tiny_mnist, tmp_path):
    folder, url, asked = home
    source = put("mnist", tiny_mnist, url=url)
    for name, content in tiny_mnist.items():
        (folder / name).write_bytes(content)
    lost = source.path(tmp_path, "train-labels-idx1-ubyte.gz")
    lost.unlink()
    assert load("mnist", tmp_path).train_y.tolist() == [3, 0, 9]
    assert lost.read_bytes() == tiny_mnist[lost.name]
    assert [a for a in asked if a.startswith("GET")] == [f"GET /{lost.name}"]
    assert _files(tmp_path) == sorted(f"MNIST/raw/{name}" for name in tiny_mnist)
    load("mnist", tmp_path)
    assert len(asked) == 2  # the first contact and the file, and nothing the second time


def test_archive_is_downloaded_unpacked_and_removed(home, put, tiny_cifar, tmp_path):
    folder, url, _ = home
    packed = _tar(tiny_cifar | {"readme.html": b"not needed"})
    (folder / "tiny.tar.gz").write_bytes(packed)
    sha256 = hashlib.sha256(packed).hexdigest()
    put("cifar10", tiny_cifar, write=False, url=url + "tiny.tar.gz", archive_sha256=sha256)
    assert load("cifar10", tmp_path / "new").train_x.shape == (10, 3, 32, 32)
    assert _files(tmp_path) == sorted(f"new/cifar-10-batches-py/{name}" for name in tiny_cifar)


def test_archive_that_is_there_is_used_and_left(nobody, put, tiny_cifar, tmp_path):
    packed = _tar(tiny_cifar)
    archive = tmp_path / "tiny.tar.gz"
    archive.write_bytes(packed)
    sha256 = hashlib.sha256(packed).hexdigest()
    put("cifar10", tiny_cifar, write=False, url=nobody + "tiny.tar.gz", archive_sha256=sha256)
    load("cifar10", tmp_path)
    assert archive.exists()


def test_damaged_archive_is_named(nobody, put, tiny_cifar, tmp_path):
    archive = tmp_path / "tiny.tar.gz"
    archive.write_bytes(b"damaged")
    put("cifar10", tiny_cifar, write=False, url=nobody + "tiny.tar.gz", archive_sha256="0" * 64)
    with pytest.raises(DataError, match=f"{archive} is damaged.*expected 0000"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("lacking", ["a file", "the right content", "the format"])
def test_archive_with_wrong_content_is_refused(lacking, put, tiny_cifar, tmp_path):
    contents = dict(tiny_cifar)
    if lacking == "a file":
        del contents["data_batch_3"]
    elif lacking == "the right content":
        contents["data_batch_3"] = b"something else"
    packed = b"no tar" if lacking == "the format" else _tar(contents)
    (tmp_path / "tiny.tar.gz").write_bytes(packed)
    sha256 = hashlib.sha256(packed).hexdigest()
    put("cifar10", tiny_cifar, write=False, url="http://x/tiny.tar.gz", archive_sha256=sha256)
    with pytest.raises(DataError, match=r"tiny\.tar\.gz|data_batch_3"):
        load("cifar10", tmp_path)
    assert "cifar-10-batches-py/data_batch_3" not in _files(tmp_path)


def test_wrong_content_leaves_nothing_behind(home, put, tiny_mnist, tmp_path):
    folder, url, _ = home
    source = put("mnist", tiny_mnist, write=False, url=url)
    for name, content in tiny_mnist.items():
        (folder / name).write_bytes(content[:-1])
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    assert source.files["train-images-idx3-ubyte.gz"] in str(caught.value)
    assert _files(tmp_path) == []


def test_home_without_the_file(home, put, tiny_mnist, tmp_path):
    _, url, _ = home
    put("mnist", tiny_mnist, write=False, url=url)
    with pytest.raises(DataError, match="404"):
        load("mnist", tmp_path)
    assert _files(tmp_path) == []


def test_offline_names_the_file_its_place_and_its_home(nobody, put, tiny_mnist, tmp_path):
    source = put("mnist", tiny_mnist, url=nobody)
    path = source.path(tmp_path, "t10k-images-idx3-ubyte.gz")
    path.unlink()
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert f"{path} is missing" in message
    assert f"{nobody}{path.name}" in message
    assert "--data-root" in message
    assert "SYNTHGRAD_DATA" in message


def test_offline_leaves_no_empty_folders(nobody, put, tiny_mnist, tmp_path):
    put("mnist", tiny_mnist, write=False, url=nobody)
    with pytest.raises(DataError):
        load("mnist", tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


def test_home_that_never_answers_is_given_up(put, tiny_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CONTACT_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes the connection and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        put("mnist", tiny_mnist, write=False, url=url)
        with pytest.raises(DataError, match=r"no answer from .* within 0\.5 s"):
            load("mnist", tmp_path)


def test_the_bounds_keep_offline_short():
    assert download.CONTACT_SECONDS < 15


def test_read_only_folder_is_said_to_be(put, tiny_mnist, tmp_path, monkeypatch):
    source = put("mnist", tiny_mnist)
    path = source.path(tmp_path, "train-images-idx3-ubyte.gz")
    path.unlink()
    # chmod would not stop root.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DataError, match=f"{path.parent} cannot be written to .it is read-only"):
        load("mnist", tmp_path)


def test_root_below_a_file_is_said_not_to_be_usable(put, tiny_mnist, tmp_path):
    put("mnist", tiny_mnist, write=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/MNIST/raw/train-images.*file is not a folder"):
        load("mnist", tmp_path / "file")
