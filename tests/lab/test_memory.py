"""Too little memory is a clear message, and leaves nothing behind."""

import pytest
import torch

from synthgrad.lab import cli
from synthgrad.lab.errors import RunError
from synthgrad.lab.experiments import ALL
from synthgrad.lab.experiments.copying import EpisodeTrainer
from synthgrad.lab.runs.memory import enough_memory

COPY = ALL["copy"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_it_says_what_to_lower(error):
    config = COPY.defaults.changed(unroll=100_000, batch_size=7)
    says = r"^out of memory: lower some of --unroll 100000, --batch-size 7, .*\(.+\)$"
    with pytest.raises(RunError, match=says) as told, enough_memory(config):
        raise error
    assert "\n" not in str(told.value)


def test_other_errors_are_as_they_were():
    with pytest.raises(RuntimeError, match=r"^shapes$"), enough_memory(COPY.defaults):
        raise RuntimeError("shapes")


@pytest.mark.parametrize("when", ["at first", "while it trains"])
def test_the_command_ends_with_1_and_the_folder_is_free_again(tmp_path, capsys, monkeypatch, when):
    def too_much(*_):
        torch.empty(1 << 60, dtype=torch.uint8)  # more than an address has room for

    monkeypatch.setattr(EpisodeTrainer, "advance" if when != "at first" else "__init__", too_much)
    command = ["run", "copy", "--iterations", "2", "--units", "4", "--out", str(tmp_path / "run")]
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        said = capsys.readouterr().err
        assert ended.value.code == 1
        assert said.startswith("synthgrad: out of memory: lower some of --unroll 3,")
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()
