"""A run that diverged says so, ends with 1, and leaves its folder whole."""

import json
import math

import pytest
import torch
from torch import nn

from synthgrad import checkpoint
from synthgrad.errors import NonFiniteError
from synthgrad.lab import cli
from synthgrad.lab.errors import Diverged
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import ImageTrainer
from synthgrad.lab.runs.divergence import Watch, check_weights, entropy, most_common_error
from synthgrad.lab.runs.run import run

DIGITS = RECIPES["digits-fcn"]
CONFIG = DIGITS.defaults.changed(units=8, iterations=20, eval_every=5, checkpoint_every=5)
CHANCE = {"test_error": 90.0}


@pytest.mark.parametrize(
    ("errors", "diverged"),
    [
        ([80, 10, 88], True),
        ([80, 10, 88, 12], False),  # it fell again
        ([89, 88, 89], False),  # it never learned: that is a result
        ([80, 50, 88], False),  # nor had it learned much
        ([80, 10, 60], False),
        ([80, 10, 88, math.nan], True),  # not measured the last time
        ([], False),
    ],
    ids=str,
)
def test_errors_that_end_at_chance_after_better_ones(errors, diverged):
    watch = Watch(CHANCE, {})
    for error in errors:
        watch.see({"test_error": error, "train_loss": 1.0})
    assert ("test_error ends at 88, which is chance (90)" in watch.verdict()) is diverged


def test_the_best_of_before_a_stop_counts():
    watch = Watch(CHANCE, {"test_error": 10})
    watch.see({"test_error": 89})
    assert "after it had been 10" in watch.verdict()


@pytest.mark.parametrize(("loss", "diverged"), [(1e5, True), (1e3, False), (math.nan, False)])
def test_an_absurd_loss(loss, diverged):
    watch = Watch(CHANCE, {})
    watch.see({"train_loss": loss, "interface/hidden1/l2": 1e9})
    assert bool(watch.verdict()) is diverged


@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
def test_a_weight_or_a_statistic_that_is_not_finite_is_named(name):
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    check_weights(module)
    module.state_dict()[name].view(-1)[1] = math.nan
    with pytest.raises(NonFiniteError, match=rf"^{name} has NaN or infinity"):
        check_weights(module)


def test_what_chance_is():
    assert most_common_error(torch.tensor([0, 1, 1, 3])) == 50
    assert entropy(torch.tensor([0, 1, 2, 3])) == pytest.approx(2)
    assert entropy(torch.tensor([5, 5])) == 0


def test_a_run_that_goes_to_infinity_ends_with_1_and_a_whole_folder(tmp_path, capsys):
    command = ["run", "digits-fcn", "--units", "8", "--iterations", "20", "--method", "backprop"]
    command += ["--learning-rate", "1e30", "--eval-every", "5", "--out", str(tmp_path)]
    for more in ([], ["--resume"]):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command, *more])
        said = [s for s in capsys.readouterr().err.splitlines() if s.startswith("synthgrad:")]
        assert ended.value.code == 1
        assert len(said) == 1
        assert "training diverged by step" in said[0]
        assert "--learning-rate" in said[0]
        assert not (tmp_path / "summary.json").exists()
        assert json.loads((tmp_path / "config.json").read_text())["recipe"] == "digits-fcn"
        assert checkpoint.load(tmp_path / "checkpoint") is not None
        assert (tmp_path / "metrics.jsonl").exists()


def test_weights_that_are_not_finite_are_never_kept(tmp_path, monkeypatch):
    config = CONFIG.changed(eval_every=20)
    advance = ImageTrainer.advance

    def poisoned(trainer):
        advance(trainer)
        if trainer.step == 10:  # no loss has seen it when the checkpoint is due
            next(trainer.model.parameters()).data[0] = math.nan

    monkeypatch.setattr(ImageTrainer, "advance", poisoned)
    monkeypatch.setattr("synthgrad.lab.runs.run.Pace.due", lambda _: True)
    with pytest.raises(Diverged, match="diverged by step 10"):
        run(DIGITS, config, tmp_path)
    state = checkpoint.load(tmp_path / "checkpoint")
    assert state is not None
    assert state["run"]["trainer"]["step"] == 5
    monkeypatch.setattr(ImageTrainer, "advance", advance)
    assert run(DIGITS, config, tmp_path, resume=True)["iterations"] == 20


def test_a_run_that_forgot_what_it_had_learned_has_no_summary(tmp_path, monkeypatch):
    errors = iter([80.0, 10.0, 80.0, 89.0, 89.0])
    evaluate = ImageTrainer.evaluate
    monkeypatch.setattr(
        ImageTrainer, "evaluate", lambda trainer: evaluate(trainer) | {"test_error": next(errors)}
    )
    with pytest.raises(Diverged, match="test_error ends at 89, which is chance"):
        run(DIGITS, CONFIG, tmp_path)
    with pytest.raises(Diverged, match="test_error ends at 89, which is chance"):
        run(DIGITS, CONFIG, tmp_path, resume=True)
    assert not (tmp_path / "summary.json").exists()
