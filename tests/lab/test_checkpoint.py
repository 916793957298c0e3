import pytest

from synthgrad import checkpoint
from synthgrad.errors import SynthgradWarning
from synthgrad.lab.errors import RunError
from synthgrad.lab.runs.folder import load_newest


def test_all_damaged_is_an_error_that_names_them(tmp_path):
    path = checkpoint.save(tmp_path, 7, {"step": 7})
    path.write_bytes(b"")
    with (
        pytest.warns(SynthgradWarning),
        pytest.raises(RunError, match=f"all checkpoints.*{path.name}"),
    ):
        load_newest(tmp_path)


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_newest(tmp_path / "nowhere") is None
