"""Figure 5, and what layers and networks did, in a report."""

import re

import pytest

from synthgrad.lab.report import write_report
from synthgrad.lab.report.groups import group
from synthgrad.lab.report.results import result, table
from synthgrad.lab.report.runs import read_run
from synthgrad.lab.runs.progress import outcome

FINAL = {"test_error_a": 4.87, "test_error_b": 10.56, "ticks": 1600.0}
LINES = [{"step": 100, **FINAL}]


def _table(*folders):
    return table(group([read_run(folder) for folder in folders]))


def test_a_run_says_what_the_command_line_said(make_recurrent):
    run = read_run(make_recurrent(LINES, FINAL, recipe="multi-network"))
    assert result(run) == "Test error of network A 4.87%, of network B 10.56%"
    assert run.summary is not None
    said = {"metrics": run.summary.metrics, "iterations": 100, "seconds": 1.0}
    number = re.search(r"test error of network B (\S+%)", outcome(said))
    assert number is not None
    assert f"of network B {number[1]}" in result(run)


def test_methods_mean_what_they_do_in_their_recipe(make_run, make_recurrent, tmp_path):
    runs = [make_run(m) for m in ("none", "cdni")]
    runs += [make_run("cdni", recipe="cifar10-fcn")]
    runs += [make_recurrent(LINES, FINAL, m, recipe="multi-network") for m in ("none", "cdni")]
    text = " ".join(write_report(runs, tmp_path / "out.html").read_text().split())
    layers, networks = text.split('<h2 id="recipe-3">')
    assert layers.count("also sees the label") == 1  # what a section says need not be said again
    assert "no error comes back between layers" in layers
    assert "no error comes back from B to A" in networks
    assert "<b>cdni</b>: the same from a model that also sees the count of threes" in networks
    assert "label" not in networks.replace("aria-label", "")


def test_validation_errors_of_networks_have_titles(make_recurrent):
    final = {"validation_error_a": 1.0, "validation_error_b": 2.0}
    found = _table(make_recurrent(LINES, final, recipe="multi-network"))
    assert found.metrics == (
        "Validation error of network A, %",
        "Validation error of network B, %",
    )


@pytest.mark.parametrize(
    ("updates", "said"),
    [({"hidden1": 2043, "output": 1954}, "1,954–2,043"), ({"joint": 3500}, "3,500")],
)
def test_updates_of_layers_have_a_column(updates, said, make_run, tmp_path):
    final = {"test_error": 2.0, "updates": updates}
    folders = [make_run("cdni", 0, final=final), make_run("backprop", 0)]
    found = _table(*folders)
    assert [row.updates for row in found.rows] == ["–", said]
    text = write_report(folders, tmp_path / "out.html").read_text()
    assert '<th scope="col" class="n">Updates</th>' in text
    assert not _table(folders[1]).has_updates
