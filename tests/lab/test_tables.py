"""The grids are the paper's."""

import re

import pytest

from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments import ALL
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.tables import TABLES

CELLS = {
    "table2-mnist-fcn": 16,
    "table2-mnist-cnn": 8,
    "table2-cifar10-fcn": 16,
    "table2-cifar10-cnn": 8,
    "fig11a": 11,
    "fig11b": 6,
    "fig12": 5,
    "fig14": 8,
    "fig15": 6,
    "stale": 16,
    "deep21": 2,
    "table1-copy": 12,
    "table1-repeat-copy": 12,
    "table1-ptb": 17,
    "fig17": 24,
    "fig5": 4,
    "fig7-update": 41,
    "fig7-full": 40,
}


def _configs(name):
    return [cell.config(0.01, seed=0) for cell in TABLES[name].cells]


def test_every_table_has_its_cells():
    assert {name: len(table.cells) for name, table in TABLES.items()} == CELLS


@pytest.mark.parametrize("name", TABLES)
def test_cells_are_told_apart_by_name_and_by_settings(name):
    cells = TABLES[name].cells
    assert all(re.fullmatch(r"[a-zA-Z0-9.-]+", cell.name) for cell in cells)
    assert len({cell.name for cell in cells}) == len(cells)
    settings = {(cell.recipe, cell.config(0.01).model_dump_json()) for cell in cells}
    assert len(settings) == len(cells)
    assert {cell.recipe for cell in cells} <= set(ALL)


@pytest.mark.parametrize("network", ["mnist-fcn", "mnist-cnn", "cifar10-fcn", "cifar10-cnn"])
def test_table_2_is_methods_by_depths(network):
    table = TABLES[f"table2-{network}"]
    depths = range(3, 7) if network.endswith("fcn") else range(3, 5)
    methods = ("none", "backprop", "dni", "cdni")
    found = {(c.layers, c.method) for c in _configs(table.name)}
    assert found == {(depth, method) for depth in depths for method in methods}
    assert {cell.recipe for cell in table.cells} == {network}
    assert all(c.interfaces == "all" and c.feedback_hidden is None for c in _configs(table.name))


def test_figure_11a_has_one_interface_and_11b_all_up_to_a_depth():
    single = {(c.method, *c.positions()) for c in _configs("fig11a")}
    assert single == {("backprop",), *((m, i) for m in ("dni", "none") for i in range(1, 6))}
    up_to = {(c.method, *c.positions()) for c in _configs("fig11b")}
    assert up_to == {("backprop",), *(("dni", *range(1, k + 1)) for k in range(1, 6))}
    assert {c.layers for c in _configs("fig11a") + _configs("fig11b")} == {6}


def test_figure_12_is_part_of_11a():
    assert all(cell in TABLES["fig11a"].cells for cell in TABLES["fig12"].cells)


def test_figure_14_is_linear():
    configs = _configs("fig14")
    assert {(c.layers, c.method, c.feedback_hidden) for c in configs} == {
        (depth, method, ()) for depth in range(3, 7) for method in ("dni", "cdni")
    }


def test_table_1_is_methods_by_unrolls():
    methods = ("bptt", "dni", "dni-aux")
    for task in ("copy", "repeat-copy"):
        found = {(c.unroll, c.method) for c in _configs(f"table1-{task}")}
        assert found == {(t, method) for t in (2, 3, 4, 5) for method in methods}
    found = {(c.unroll, c.method) for c in _configs("table1-ptb")}
    assert found >= {(t, method) for t in (2, 3, 4, 5, 8) for method in methods}
    assert found >= {(20, "bptt"), (40, "bptt")}
    # Early stopping goes by evaluations: their distance is not for a table to change.
    assert TABLES["table1-ptb"].cells[0].config(1.0).eval_every == 5_000
    assert TABLES["table1-copy"].cells[0].config(1.0).iterations == 2_500_000


def test_the_others():
    assert {(c.layers, c.method) for c in _configs("deep21")} == {(21, "cdni"), (21, "backprop")}
    assert {(c.layers, c.method) for c in _configs("fig15")} == {
        (depth, method) for depth in (3, 4) for method in ("backprop", "dni", "cdni")
    }
    assert {(c.layers, c.decay) for c in _configs("stale")} == {
        (depth, decay) for depth in range(3, 7) for decay in (0.5, 0.9, 0.99, 0.999)
    }


@pytest.mark.parametrize(
    ("budget", "iterations", "eval_every"),
    [(1.0, 500_000, 5_000), (0.01, 5_000, 250), (1e-9, 1, 250)],
)
def test_the_budget_is_a_share_of_the_papers_iterations(budget, iterations, eval_every):
    config = TABLES["deep21"].cells[0].config(budget, seed=3)
    assert (config.iterations, config.eval_every, config.seed) == (iterations, eval_every, 3)


def test_without_a_budget_a_cell_has_what_suits_it():
    cells = {cell.name: cell for cell in TABLES["table2-mnist-fcn"].cells}
    recipe = RECIPES["mnist-fcn"]
    for method in ("backprop", "dni", "cdni"):
        config = cells[f"4-{method}"].config(None)
        assert config == recipe.settle(recipe.defaults.changed(method=method))
    config = cells["4-dni"].config(None, schedule="paper")
    assert (config.iterations, config.learning_rate, config.eval_every) == (500_000, 3e-5, 5_000)
    config = cells["4-dni"].config(0.5, schedule="paper")
    assert (config.iterations, config.learning_rate, config.warmup) == (250_000, 3e-5, 0)


@pytest.mark.parametrize("name", TABLES)
def test_a_cell_has_only_what_its_method_uses(name):
    for cell in TABLES[name].cells:
        defaults = ALL[cell.recipe].defaults
        defaults.changed(**cell.settings).check_effect(defaults)


def test_a_wrong_value_is_named():
    with pytest.raises(UsageError, match="--seed"):
        TABLES["deep21"].cells[0].config(0.01, seed=-1)
