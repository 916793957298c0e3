import os
import warnings

import pytest
import torch

from synthgrad import checkpoint
from synthgrad.errors import SynthgradWarning


def _save(folder, *steps):
    return [checkpoint.save(folder, step, {"step": step, "w": torch.ones(3)}) for step in steps]


def test_the_last_two_are_kept_and_the_newest_is_loaded(tmp_path):
    _save(tmp_path, 1, 2, 10)
    assert len(list(tmp_path.iterdir())) == checkpoint.KEEP
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["step"] == 10


def test_a_lower_step_written_later_is_the_newest(tmp_path):
    *_, last = _save(tmp_path, 2, 3)
    last.write_bytes(last.read_bytes()[:-1])
    _save(tmp_path, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_the_newest_is_the_one_of_the_most_steps_whatever_the_clock_said(tmp_path):
    first, second = _save(tmp_path, 999_999_999, 1_000_000_000)  # of which one has more digits
    os.utime(first, (2e9, 2e9))
    os.utime(second, (1e9, 1e9))
    assert checkpoint.newest_first(tmp_path) == [second, first]
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["step"] == 1_000_000_000


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    (half := tmp_path / ".step-000000001-0123456789abcdef.pt.77").write_bytes(b"x")
    _save(tmp_path, 2)
    assert not half.exists()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    path = _save(tmp_path, 1, 2)[-1]
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: {"truncated": len(data) // 2, "empty": 0}.get(damage, len(data))])
    with pytest.warns(SynthgradWarning, match=rf"damaged checkpoint .*{path.name}"):
        state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_no_checkpoint_is_no_error(tmp_path):
    assert checkpoint.load(tmp_path / "nowhere") is None


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    checkpoint.save(tmp_path, 1, {"evil": Evil()})
    with pytest.warns(SynthgradWarning, match="damaged"):
        assert checkpoint.load(tmp_path) is None


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoint.write(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
