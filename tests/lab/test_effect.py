"""An option that would do nothing with the method is refused, and only if it was said."""

import pytest

from synthgrad.lab import cli
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments import ALL
from synthgrad.lab.runs.run import run


@pytest.mark.parametrize(
    ("recipe", "said", "names"),
    [
        ("copy", {"method": "bptt", "feedback_history": 0}, "--feedback-history 0 .* bptt, only"),
        ("copy", {"method": "bptt", "feedback_into_core": True}, "--feedback-into-core does"),
        ("copy", {"method": "bptt", "scale": 0.5}, r"--scale 0\.5 .* with dni or dni-aux"),
        ("copy", {"method": "bptt", "warmup": 3, "feedback_clip": 1.0}, r"--feedback-clip.*warmup"),
        ("ptb", {"method": "bptt", "feedback_learning_rate": 1e-3}, "--feedback-learning-rate"),
        ("ptb", {"method": "bptt", "feedback_hidden": (8, 9)}, "--feedback-hidden 8 9 does"),
        ("ptb", {"method": "bptt", "feedback_sees": "state"}, "--feedback-sees state"),
        ("copy", {"method": "bptt", "auxiliary_hidden": (8,)}, "bptt, only with dni-aux"),
        ("copy", {"auxiliary_into_core": "last"}, "--auxiliary-into-core last .* --method dni,"),
        ("repeat-copy", {"auxiliary_hidden": (8,)}, "--auxiliary-hidden 8 .* --method dni,"),
        ("multi-network", {"method": "none", "scale": 7}, r"--scale 7\.0 .* --method none"),
        ("multi-network", {"method": "backprop", "feedback_hidden": (8,)}, "backprop, only"),
        ("multi-network", {"method": "none", "feedback_learning_rate": 1}, "--feedback-learning"),
        ("mnist-fcn", {"method": "dni", "decay": 0.9}, r"--decay 0\.9 .* dni, only with stale"),
        ("mnist-fcn", {"method": "stale", "feedback_hidden": ()}, "--feedback-hidden does"),
        ("mnist-fcn", {"method": "none", "feedback_learning_rate": 1}, "--feedback-learning-rate"),
        ("mnist-fcn", {"method": "backprop", "interfaces": "1"}, "--interfaces 1 does"),
        ("mnist-fcn", {"method": "backprop", "lambda_": 0.5}, r"--lambda 0\.5 does"),
        ("mnist-fcn", {"method": "backprop", "warmup": 9}, "--warmup 9 does"),
        ("mnist-fcn", {"input_learning_rate": 1e-3}, "--input-learning-rate .* --unlock no, only"),
    ],
    ids=str,
)
def test_an_idle_option_is_named_with_what_it_is_for(recipe, said, names):
    defaults = ALL[recipe].defaults
    with pytest.raises(UsageError, match=names):
        defaults.changed(**said).check_effect(defaults)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("copy", {"method": "bptt", "clip": 1.0, "learning_rate": 1e-3, "feedback_clip": 0}),
        ("copy", {"method": "dni", "feedback_sees": "state", "feedback_into_core": True}),
        ("copy", {"method": "dni-aux", "auxiliary_hidden": (), "auxiliary_into_core": "no"}),
        ("multi-network", {"method": "dni", "scale": 7, "feedback_hidden": (8,)}),
        ("mnist-fcn", {"method": "stale", "decay": 0.9, "warmup": 5, "lambda_": 0.1}),
        ("mnist-fcn", {"method": "none", "interfaces": "2", "lambda_": 0.1}),
        ("mnist-fcn", {"unlock": "full", "input_learning_rate": 1e-3}),
    ],
    ids=str,
)
def test_an_option_with_an_effect_is_taken(recipe, said):
    defaults = ALL[recipe].defaults
    defaults.changed(**said).check_effect(defaults)


@pytest.mark.parametrize("name", ALL)
def test_every_option_with_a_condition_is_one_that_there_is(name):
    config = ALL[name].defaults
    fields = type(config).model_fields
    for option, (other, among) in config.only_with.items():
        assert option in fields
        for value in among:
            config.changed(**{other: value})


@pytest.fixture
def main():
    """The command's exit code."""

    def command(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", "copy", "--method", "bptt", "--units", "4", *arguments])
        return ended.value.code

    return command


def test_the_command_line_refuses_before_anything_is_written(main, tmp_path, capsys):
    out = tmp_path / "run"
    assert main("--feedback-history", "4", "--warmup", "3", "--out", str(out)) == 2
    said = capsys.readouterr().err
    assert "--feedback-history 4 does nothing with --method bptt" in said
    assert "--warmup 3 does nothing with --method bptt" in said
    assert not out.exists()


def test_a_run_from_before_this_was_refused_goes_on(main, tmp_path):
    defaults = ALL["copy"].defaults
    before = defaults.changed(method="bptt", units=4, iterations=2, feedback_history=4)
    run(ALL["copy"], before, tmp_path)
    said = ("--iterations", "2", "--feedback-history", "4", "--out", str(tmp_path), "--resume")
    assert main(*said) == 0
