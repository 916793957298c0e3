"""A data set's files on disk: where they are, that all are there, and that each is intact."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from synthgrad.lab.data.download import download
from synthgrad.lab.data.errors import DataError, damaged
from synthgrad.lab.data.sources import Source
from synthgrad.lab.errors import check_path

ROOT_VARIABLE = "SYNTHGRAD_DATA"


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the data sets: ``root``, else ``$SYNTHGRAD_DATA``, else the user's cache.

    Raises:
        UsageError: it cannot be a path.
    """
    chosen = root or os.environ.get(ROOT_VARIABLE)
    if chosen:
        check_path("--data-root", place := Path(chosen).expanduser().absolute())
        return place
    import pooch

    return Path(pooch.os_cache("synthgrad"))


def ensure(source: Source, root: Path) -> None:
    """Downloads what is missing of a data set; what is there is not touched.

    Raises:
        DataError: a file is missing and cannot be had.
    """
    missing = [file for file in source.files if not os.path.exists(source.path(root, file))]
    if missing:
        download(source, root, missing)


def read(source: Source, root: Path, file: str) -> bytes:
    """The bytes of one file, verified: what is parsed is exactly what was checked.

    Raises:
        DataError: the file cannot be read, or its checksum is not the known one.
    """
    path, expected = source.path(root, file), source.files[file]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{source.name}: cannot read {path}: {error.strerror}") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise damaged(source, path, actual, expected)
    return content
