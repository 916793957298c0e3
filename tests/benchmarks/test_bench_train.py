"""``synthgrad bench train`` counts and measures what it says."""

import shutil

import pytest
import torch
from torch import nn

from benchmarks import contest as contest_module
from benchmarks import train
from benchmarks.contest import contest
from benchmarks.examples import examples
from benchmarks.throughput import Peak, operations
from synthgrad.lab import cli
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.image_recipes import RECIPES

CPU = torch.device("cpu")
DIGITS = RECIPES["digits-fcn"]
QUICK = (2, 2)


class _NoPeak:
    best = 1e12

    def __init__(self, *_):
        self.measure = lambda: 1.0


@pytest.fixture(autouse=True)
def _no_time_for_the_peak(monkeypatch):
    monkeypatch.setattr(contest_module, "Peak", _NoPeak)


def test_operations_are_those_of_products_and_convolutions():
    one, other = torch.rand(3, 4), torch.rand(4, 5)
    assert operations(lambda: one @ other) == 2 * 3 * 4 * 5
    assert operations(lambda: torch.rand(3, 5).addmm_(one, other)) == 2 * 3 * 4 * 5
    assert operations(lambda: one.relu()) == 0
    layer = nn.Conv2d(2, 3, 5, padding="same")
    image = torch.rand(7, 2, 6, 6)
    forward = 2 * 7 * 6 * 6 * 3 * 2 * 5 * 5
    assert operations(lambda: layer(image)) == forward
    assert operations(lambda: layer(image).sum().backward()) == 2 * forward  # none for the image


def test_a_step_counts_as_many_operations_as_its_layers_have():
    result = contest(DIGITS, ("backprop", "cdni"), CPU, rounds=QUICK)
    batch, classes = 256, 10
    layers = [(64, 64), (64, 64), (64, 64), (64, classes)]
    products = [2 * batch * a * b for a, b in layers]
    backprop = sum(3 * p for p in products) - products[0]  # no error for the input
    # M forward, and the gradient of its weights: for the message and for the label.
    fitting = 3 * 2 * (2 * batch * 64 * 64 + 2 * batch * classes * 64)
    assert result.contestants["backprop"].count == backprop
    assert result.contestants["cdni"].count == backprop + fitting


def test_every_part_is_timed_in_every_round():
    result = contest(DIGITS, ("backprop", "cdni"), CPU, rounds=QUICK)
    assert result.real
    assert result.peak == 1e12
    backprop, cdni = result.contestants.values()
    assert backprop.extras.keys() == {"data", "shuffling", "metrics"}
    assert cdni.extras.keys() == {"data", "shuffling", "metrics", "labels"}
    for contestant in (backprop, cdni):
        assert len(contestant.times) == 2
        assert all(len(times) == 2 for times in contestant.extras.values())
        assert all(seconds > 0 for times in contestant.extras.values() for seconds in times)
        assert contestant.together == pytest.approx(sum(map(contestant.share, contestant.extras)))
        assert contestant.evaluating > 0
    assert backprop.share("labels") == 0


def test_the_peak_is_that_of_a_product():
    peak = Peak(CPU, torch.float32)
    first = peak.best
    seconds = [peak.measure() for _ in range(2)]
    assert 1e8 < first <= peak.best < 1e15
    assert all(0 < s < 60 for s in seconds)


def test_examples_are_random_and_said_to_be_where_there_are_none(tmp_path, monkeypatch, capsys):
    data, real = examples("cifar10", tmp_path, CPU)
    assert not real
    assert data.train_x.shape == (50_000, 3, 32, 32)
    assert data.test_y.shape == (10_000,)
    tiny = (600, 100, (1, 28, 28))
    monkeypatch.setattr("benchmarks.examples.SHAPES", {"mnist": tiny})
    train.main(1, ("mnist-fcn",), ("none",), data_root=tmp_path, rounds=QUICK)
    said = capsys.readouterr().out
    assert "random examples in the shape of mnist" in " ".join(said.split())


def test_real_examples_are_taken_where_they_are(tmp_path, monkeypatch):
    from benchmarks import examples as module

    source = module.SOURCES["mnist"]
    for file in source.files:
        path = source.path(tmp_path, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(module, "load", lambda name, **_: name)
    assert examples("mnist", tmp_path, CPU) == ("mnist", True)
    shutil.rmtree(tmp_path / "MNIST")
    assert not examples("mnist", tmp_path, CPU)[1]


def test_it_prints_a_row_for_each_method(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    train.main(1, ("digits-fcn",), ("cdni", "stale", "cdni"), rounds=QUICK)
    said = capsys.readouterr().out
    lines, words = said.splitlines(), " ".join(said.split())
    assert [
        line.split()[0] for line in lines if line.startswith((" backprop", " cdni", " st"))
    ] == [*("backprop", "cdni", "stale")] * 2
    assert "1,000 GFLOP/s" in words
    assert words.endswith("of a step (to reach: 5%).")
    assert "…" not in words  # nothing is cut off


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "--recipes", "mnist-fnc"), "--recipes: expected some of digits-fcn"),
        (("train", "--methods", "magic"), "--methods: expected some of backprop"),
        (("train", "--device", "abacus"), "--device"),
        (("train", "--threads", "0"), "--threads: expected at least 1, got 0"),
        (("step", "--methods", "cdni"), "--methods"),
        (("recurrent", "--units", "0"), "units"),
        (("recurrent", "--unrolls", "0"), "unroll"),
    ],
    ids=" ".join,
)
def test_a_bad_argument_ends_with_2_and_is_named(capsys, arguments, says):
    with pytest.raises(SystemExit) as ended:
        cli.main(("bench", *arguments))
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_an_unknown_name_is_refused_before_anything_runs():
    with pytest.raises(UsageError, match="got nothing, zero"):
        train.main(1, ("digits-fcn",), ("cdni", "nothing", "zero"))
