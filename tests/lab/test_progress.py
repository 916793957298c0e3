"""The lines that a run prints where there is no terminal."""

import math

import pytest

from synthgrad.lab.cli import main
from synthgrad.lab.runs.progress import progress


@pytest.fixture
def line(capsys):
    """The line for some values."""

    def show(values):
        with progress("dni", 3) as report:
            report(3, values)
        return capsys.readouterr().err

    return show


def test_both_networks_are_shown(line):
    values = {"train_loss_a": 1.5, "train_loss_b": 0.25}
    values |= {"validation_error_a": 40.0, "validation_error_b": 6.0}
    values |= {"test_error_a": 50.0, "test_error_b": 7, "ticks": 48.0}  # as they are evaluated
    assert line(values) == (
        "dni: 3/3 loss a 1.5000  loss b 0.2500  validation error a 40.00%  "
        "validation error b 6.00%  test error a 50.00%  test error b 7.00%\n"
    )


def test_what_was_not_measured_is_left_out(line):
    assert line({"train_bits": math.nan, "task_length": 4, "solved_length": 0}) == (
        "dni: 3/3 task length 4  solved length 0\n"
    )
    assert line({"train_loss": math.nan}) == "dni: 3/3\n"
    assert line({"train_loss": math.inf}) == "dni: 3/3 loss inf\n"


def test_a_run_in_which_nothing_counts_shows_no_nan(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "copy", "--samples", "1", "--threads", "1", "--out", str(tmp_path / "run")])
    assert ended.value.code == 0
    assert "nan" not in capsys.readouterr().err
