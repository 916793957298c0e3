"""Downloads from a data set's public home: checked, atomic, and quick to give up.

A file appears under its name only when it is whole and its checksum is right: it is written under
a temporary name in the same folder and then renamed.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthgrad import checkpoint
from synthgrad.lab.data.errors import DataError, damaged
from synthgrad.lab.data.sources import Source

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
# Name resolution has no timeout of its own, and a name may stand for many addresses, each tried
# in turn: so the whole first contact is bounded.
CONTACT_SECONDS = 10.0


def download(source: Source, root: Path, missing: Sequence[str]) -> None:
    """Fetches the missing files of a data set into ``root``.

    Args:
        source: the data set.
        root: the folder of the data sets.
        missing: names of files that are not there.

    Raises:
        DataError: ``root`` cannot be written to, the home is out of reach, or what came has not
            the known checksum.
    """
    try:
        _check_writable(folder := root / source.folder)
        if source.archive_sha256 is None:
            _contact(source.url)
            folder.mkdir(parents=True, exist_ok=True)
            for file in missing:
                _retrieve(source.home(file), source.path(root, file), source.files[file])
        else:
            _from_archive(source, root, missing, source.archive_sha256)
    except DataError:
        raise
    except (OSError, ValueError) as error:
        # requests' errors are OSErrors; pooch reports a wrong checksum as a ValueError.
        still = [file for file in missing if not os.path.exists(source.path(root, file))]
        raise DataError(_advice(source, root, still or missing, error)) from error


def _advice(source: Source, root: Path, missing: Sequence[str], error: Exception) -> str:
    first = source.path(root, missing[0])
    more = f" (as are {', '.join(missing[1:])})" if len(missing) > 1 else ""
    if isinstance(error, PermissionError):
        why = f"cannot be downloaded, because {first.parent} cannot be written to ({error})"
    else:
        why = f"could not be downloaded: {error}"
    what = "it" if source.archive_sha256 is None else "the folder in it"
    where = "there" if source.archive_sha256 is None else f"in {root}"
    return (
        f"{source.name}: {first} is missing{more} and {why}. Download "
        f"{source.home(missing[0])} by hand and put {what} "
        f"{where}, or name the folder that holds {source.folder}/ as --data-root or $SYNTHGRAD_DATA"
    )


def _check_writable(folder: Path) -> None:
    # os.path.exists, because Path.exists raises where a parent may not be entered.
    there = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError("it is read-only")


def _from_archive(source: Source, root: Path, missing: Sequence[str], sha256: str) -> None:
    archive = root / source.url.rpartition("/")[2]
    if there := archive.exists():  # somebody put it there: use it, and leave it
        import pooch

        if (actual := pooch.file_hash(str(archive))) != sha256:
            raise damaged(source, archive, actual, sha256)
    else:
        _contact(source.url)
        _retrieve(source.url, archive, sha256)
    (root / source.folder).mkdir(exist_ok=True)
    _unpack(source, archive, root, missing)
    if not there:
        archive.unlink()  # it is as large as what was in it


def _retrieve(url: str, path: Path, sha256: str) -> None:
    import pooch

    fetcher = pooch.create(
        path=path.parent,
        base_url="",
        registry={path.name: f"sha256:{sha256}"},
        urls={path.name: url},
        retry_if_failed=1,
    )
    fetcher.fetch(path.name, downloader=_downloader())


def _downloader() -> Any:
    import pooch

    return pooch.HTTPDownloader(
        timeout=(CONNECT_SECONDS, READ_SECONDS),
        chunk_size=1 << 16,
        # The bytes as they are: a server must not wrap them in a compression of its own.
        headers={"Accept-Encoding": "identity"},
    )


def _contact(url: str) -> None:
    """Sees whether the home answers at all, within ``CONTACT_SECONDS``."""
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            _downloader()(url, None, None, check_only=True)
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    # A daemon, so that one that hangs in the resolver does not keep the program alive.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONTACT_SECONDS)
    if not outcome:
        raise TimeoutError(f"no answer from {url} within {CONTACT_SECONDS:g} s")
    if outcome[0] is not None:
        raise outcome[0]


def _unpack(source: Source, archive: Path, root: Path, missing: Sequence[str]) -> None:
    """Takes the missing files, and nothing else, out of the archive."""
    try:
        with tarfile.open(archive) as tar:
            for file in missing:
                # Read by name and written to a path of ours: no path in the archive is followed.
                member = tar.extractfile(f"{source.folder}/{file}")
                if member is None:
                    raise KeyError(f"{file} is in it, but not as a file")
                _place(member.read(), source.path(root, file), source.files[file])
    except (tarfile.TarError, EOFError, KeyError, zlib.error) as error:
        raise DataError(
            f"{source.name}: cannot take the files out of {archive}: {error}"
        ) from error


def _place(content: bytes, path: Path, sha256: str) -> None:
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(f"{path.name}, as the archive has it, has sha256 {actual}, not {sha256}")
    checkpoint.write(path, content)
