"""``synthgrad bench recurrent`` times every method and compares it with BPTT of the same T."""

import pytest
import torch

from benchmarks import recurrent
from synthgrad.lab import cli


def test_a_row_for_each_unroll_and_method(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    recurrent.main(
        torch.get_num_threads(),
        units=4,
        batch_size=2,
        unrolls=(3, 1),
        precision="float32",
        device="cpu",
        rounds=2,
    )
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[t, m] for t in "31" for m in recurrent.METHODS]
    assert [row[4] for row in rows if row[1] == "bptt"] == ["1.00", "1.00"]
    assert [row[5:] for row in rows] == [[], ["1.15"], ["1.30"], [], [], []]
    for steps, samples, unroll in ((float(r[2].replace(",", "")), r[3], r[0]) for r in rows):
        assert abs(float(samples.replace(",", "")) / (2 * int(unroll) * steps) - 1) < 0.05


def test_an_unroll_of_nothing_is_refused_by_the_options_name(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "recurrent", "--unrolls", "3", "0"])
    assert ended.value.code == 2
    assert "--unrolls: expected each at least 1, got 0" in capsys.readouterr().err
