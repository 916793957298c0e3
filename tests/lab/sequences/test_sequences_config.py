import math

import pytest
import torch

from synthgrad.lab.cli import main
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments import ALL
from synthgrad.lab.experiments.copying import EpisodeConfig
from synthgrad.lab.experiments.images import FeedForwardConfig
from synthgrad.lab.experiments.multirate import MultiNetworkConfig
from synthgrad.lab.experiments.text import TextConfig

COPY = ALL["copy"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"method": "cdni"}, r"--method: .*'bptt', 'dni' or 'dni-aux', got 'cdni'"),
        ({"unroll": 0}, r"--unroll: .*greater than or equal to 1, got 0"),
        ({"characters": 1}, r"--characters: .*expected 2 or more, got 1"),
        ({"threshold": 0}, r"--threshold: .*greater than 0, got 0"),
        ({"phases": "odd"}, r"--phases: .*'random' or 'same', got 'odd'"),
        ({"feedback_sees": "state", "method": "dni-aux"}, r"--feedback-sees state goes with"),
        ({"patience": 1}, r"--patience: .*not permitted"),
        ({"seed": 2**63}, rf"--seed: .*less than {2**63}, got {2**63}"),
        ({"scale": math.inf}, r"--scale: .*finite number, got inf"),
        ({"learning_rate": math.inf}, r"--learning-rate: .*finite number, got inf"),
        ({"clip": math.nan}, r"--clip: .*finite number, got nan"),
        ({"forget_bias": math.nan}, r"--forget-bias: .*finite number, got nan"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(values, says):
    with pytest.raises(UsageError, match=says):
        EpisodeConfig(**values)


@pytest.mark.parametrize("kind", [FeedForwardConfig, MultiNetworkConfig])
def test_seeds_and_infinity_in_the_other_recipes(kind):
    kind(seed=2**63 - 1)
    with pytest.raises(UsageError, match=r"--seed: .*less than"):
        kind(seed=2**63)
    with pytest.raises(UsageError, match=r"--learning-rate: .*finite number, got inf"):
        kind(learning_rate=math.inf)


def test_the_command_line_refuses_infinity_by_name(capsys):
    with pytest.raises(SystemExit) as end:
        main(["run", "copy", "--scale", "inf"])
    assert end.value.code == 2
    assert "--scale: Input should be a finite number, got inf" in capsys.readouterr().err


def test_one_character_of_a_text_cannot_be_evaluated():
    with pytest.raises(UsageError, match=r"--evaluation-characters: .*2 or more, got 1"):
        TextConfig(evaluation_characters=1)
    TextConfig(evaluation_characters=2)


@pytest.mark.parametrize(
    "recipe", [ALL["copy"], ALL["repeat-copy"], ALL["ptb"]], ids=lambda recipe: recipe.name
)
def test_settled_leaves_nothing_open_and_is_settled(recipe):
    for method in ("bptt", "dni", "dni-aux"):
        config = recipe.settle(recipe.defaults.changed(method=method))
        assert config.iterations
        assert config.learning_rate
        assert config.feedback_learning_rate
        assert config.warmup is not None
        assert recipe.settle(config) == config
        assert type(config)(**config.to_json()) == config


def test_equal_samples_are_fewer_steps_of_a_longer_unroll():
    budget = {"samples": 1_000_000, "batch_size": 100}
    steps = [
        COPY.settle(COPY.defaults.changed(unroll=unroll, **budget)).iterations
        for unroll in (2, 3, 5)
    ]
    assert steps == [5000, 3334, 2000]


def test_iterations_that_disagree_with_samples_are_refused():
    with pytest.raises(UsageError, match=r"90 samples take 1 iterations, got 9"):
        COPY.settle(EpisodeConfig(iterations=9, samples=90))


@pytest.mark.parametrize("schedule", ["ours", "paper"])
def test_what_is_said_stays(schedule):
    said = {
        "units": 3,
        "batch_size": 5,
        "scale": 0.0,
        "feedback_history": 0,
        "learning_rate": 0.1,
        "feedback_learning_rate": 0.2,
        "iterations": 7,
        "warmup": 2,
    }
    config = COPY.settle(EpisodeConfig(schedule=schedule, **said))
    assert {name: getattr(config, name) for name in said} == said
    assert config.samples == 0


def test_the_papers_schedule_is_the_papers():
    config = COPY.settle(EpisodeConfig(schedule="paper"))
    assert (config.iterations, config.learning_rate) == (2_500_000, 7e-5)
    assert (config.batch_size, config.units, config.scale) == (256, 256, 0.1)
    assert (config.samples, config.feedback_history) == (0, 0)
    text = ALL["ptb"].settle(TextConfig(schedule="paper"))
    assert (text.units, text.eval_every, text.learning_rate) == (1024, 5000, 7e-5)
    assert (config.clip, text.clip) == (0, 0)
    assert config.feedback_hidden is text.feedback_hidden is None  # one layer, as wide as the LSTM


def test_longer_unrolls_of_as_many_characters_take_larger_steps():
    ptb = ALL["ptb"]
    rates = [ptb.settle(TextConfig(method="bptt", unroll=t)).learning_rate for t in (1, 2, 8, 40)]
    assert rates == [8e-3, 8e-3, 16e-3, 16e-3]
    rates = [ptb.settle(TextConfig(unroll=t)).feedback_learning_rate for t in (1, 2, 5, 8, 40)]
    assert rates == pytest.approx([3e-5, 3e-5, 7.5e-5, 1e-4, 1e-4])
    assert ptb.settle(TextConfig(unroll=8, learning_rate=0.5)).learning_rate == 0.5


def test_no_clipping_can_be_said():
    ptb = ALL["ptb"]
    assert ptb.settle(TextConfig()).clip == 1
    assert ptb.settle(TextConfig(clip=0)).clip == 0


def test_a_recipe_takes_its_own_kind_of_settings():
    with pytest.raises(UsageError, match="copy takes a EpisodeConfig, got a TextConfig"):
        COPY.settle(TextConfig())
    with pytest.raises(UsageError, match="ptb takes a TextConfig"):
        ALL["ptb"].trainer(EpisodeConfig(), None, torch.device("cpu"))
