import pytest

from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import FeedForwardConfig
from synthgrad.lab.experiments.rates import rate_factor


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lambda": 1.2}, r"--lambda: .*less than or equal to 1, got 1\.2"),
        ({"layers": 1}, r"--layers: .*greater than or equal to 2, got 1"),
        ({"method": "magic"}, r"--method: .*'backprop', 'none', 'dni', 'cdni' or 'stale'"),
        ({"learning_rate": -1}, r"--learning-rate: .*greater than or equal to 0, got -1"),
        ({"interfaces": "1,9"}, r"interfaces must lie between 1 and 3 for 4 layers, got '1,9'"),
        ({"interfaces": "first"}, r"interfaces must be \"all\" or numbers such as 1,3"),
        ({"unlock": "update", "warmup": 9}, r"--unlock update needs .*--warmup 0.*warmup 9"),
        ({"p_update": 0.5, "warmup": 9}, r"--p-update 0\.5 needs .*--warmup 0.*warmup 9"),
        ({"unlock": "full", "lambda": 0.5}, r"--unlock full needs --lambda 0.*lambda 0\.5"),
        ({"p_update": 1.5}, "--p-update: .*less than or equal to 1, got 1.5"),
        ({"unlock": "update", "lambda": 0.5}, r"--unlock update needs --lambda 0.*lambda 0\.5"),
        ({"method": "backprop", "unlock": "full"}, r"--unlock full needs interfaces"),
        ({"method": "backprop", "p_update": 0.3}, r"--p-update 0\.3 needs interfaces"),
        ({"input_hidden": (9,)}, r"--input-hidden is for --unlock full; got \(9,\)"),
        ({"bogus": 1}, r"--bogus: .*not permitted"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(values, says):
    with pytest.raises(UsageError, match=says):
        FeedForwardConfig(**values)


def test_interfaces_count_hidden_layers_from_one():
    assert FeedForwardConfig(layers=5).positions() == [1, 2, 3, 4]
    assert FeedForwardConfig(layers=5, interfaces="3,1").positions() == [1, 3]
    assert FeedForwardConfig(layers=5, method="backprop").positions() == []


def test_json_round_trip():
    config = FeedForwardConfig(**{"lambda": 0.25, "feedback_hidden": (32, 16)})
    assert config.to_json()["lambda"] == 0.25
    assert FeedForwardConfig(**config.to_json()) == config


def test_the_papers_schedule_is_the_papers():
    config = RECIPES["mnist-fcn"].settle(FeedForwardConfig(schedule="paper", method="dni"))
    assert (config.iterations, config.learning_rate) == (500_000, 3e-5)
    assert (config.feedback_learning_rate, config.warmup) == (3e-5, 0)
    factors = [rate_factor(step, 500_000) for step in (0, 299_999, 300_000, 399_999, 400_000)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("method", ["dni", "cdni"])
def test_both_models_of_the_papers_complete_unlocking_have_one_hidden_layer(method):
    settings = FeedForwardConfig(schedule="paper", method=method, unlock="full")
    config = RECIPES["mnist-fcn"].settle(settings)
    assert config.feedback_hidden == config.input_hidden == (1024,)
    assert (config.input_learning_rate, config.iterations) == (3e-5, 500_000)


def test_a_fully_unlocked_feedback_model_has_one_hidden_layer_where_it_is_not_linear():
    found = {
        method: RECIPES["mnist-fcn"].settle(FeedForwardConfig(method=method, unlock="full"))
        for method in ("dni", "cdni")
    }
    assert found["dni"].feedback_hidden == (1024,)
    assert found["cdni"].feedback_hidden is None  # the paper's for Table 2: linear


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_what_is_left_open_is_settled_by_the_method_once(recipe):
    for method in ("backprop", "none", "dni", "cdni", "stale"):
        config = recipe.settle(recipe.defaults.changed(method=method))
        assert config.iterations > 0
        assert config.learning_rate > 0
        assert config.feedback_learning_rate > 0
        assert config.warmup is not None
        assert recipe.settle(config) == config


def test_unlocked_there_is_no_warm_up():
    config = FeedForwardConfig(method="dni", unlock="update")
    assert RECIPES["mnist-fcn"].settle(config).warmup == 0
    assert RECIPES["mnist-fcn"].settle(FeedForwardConfig(method="dni")).warmup == 300


def test_what_the_user_says_is_kept():
    said = {"iterations": 7, "learning_rate": 0.5, "feedback_learning_rate": 0.25, "warmup": 0}
    for schedule in ("ours", "paper"):
        config = FeedForwardConfig(method="dni", schedule=schedule, **said)
        assert RECIPES["mnist-fcn"].settle(config) == config
