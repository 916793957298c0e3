import pytest
import torch

from synthgrad.errors import SynthgradWarning
from synthgrad.lab import checkpoint
from synthgrad.lab.errors import RunError


def _save(folder, *steps):
    return [checkpoint.save(folder, step, {"step": step, "w": torch.ones(3)}) for step in steps]


def test_the_last_two_are_kept_and_the_newest_is_loaded(tmp_path):
    _save(tmp_path, 1, 2, 10)
    assert len(list(tmp_path.iterdir())) == checkpoint.KEEP
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 10


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    path = _save(tmp_path, 1, 2)[-1]
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: {"truncated": len(data) // 2, "empty": 0}.get(damage, len(data))])
    with pytest.warns(SynthgradWarning, match=rf"damaged checkpoint .*{path.name}"):
        state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_all_damaged_is_an_error_that_names_them(tmp_path):
    (path,) = _save(tmp_path, 7)
    path.write_bytes(b"")
    with (
        pytest.warns(SynthgradWarning),
        pytest.raises(RunError, match=f"all checkpoints.*{path.name}"),
    ):
        checkpoint.load_newest(tmp_path)


def test_no_checkpoint_is_no_error(tmp_path):
    assert checkpoint.load_newest(tmp_path / "nowhere") is None


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    checkpoint.save(tmp_path, 1, {"evil": Evil()})
    with pytest.warns(SynthgradWarning), pytest.raises(RunError):
        checkpoint.load_newest(tmp_path)
