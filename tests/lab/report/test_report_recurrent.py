"""Table 1 and figures 16 and 17 in a report."""

import re
from itertools import pairwise

import pytest

from synthgrad.lab.report import ReportError, write_report
from synthgrad.lab.report.curves import across
from synthgrad.lab.report.groups import group
from synthgrad.lab.report.panels import CURVES, panels
from synthgrad.lab.report.results import table
from synthgrad.lab.report.runs import read_run

# Logged at two evaluations; between them two levels were solved.
LINES = [
    {"step": 50, "samples": 500, "solved_length": 4, "train_bits": 0.5},
    {"step": 100, "samples": 1000, "solved_length": 6, "train_bits": 0.4},
]
LEVELS = [[120, 4], [700, 5], [750, 6]]
FINAL = {"solved_length": 6, "samples": 1000, "train_bits": 0.4, "levels": LEVELS}
BPC = {"train_bits": 1.3, "validation_bpc": 1.36, "best_validation_bpc": 1.35, "test_bpc": 1.3456}


def _levels(*folders):
    curve = across([read_run(f) for f in folders], "solved_length", "samples", stepped=True)
    assert curve is not None
    return curve


def test_levels_are_steps_at_the_samples_that_solved_them(make_recurrent):
    curve = _levels(make_recurrent(LINES, FINAL))
    assert curve.steps.tolist() == [0, 120, 700, 750, 1000]
    assert curve.mean.tolist() == [0, 4, 5, 6, 6]
    assert curve.stepped


def test_levels_of_seeds_are_averaged_as_they_stand_at_each_moment(make_recurrent):
    other = {**FINAL, "solved_length": 4, "levels": [[600, 4]]}
    curve = _levels(make_recurrent(LINES, FINAL), make_recurrent(LINES, other, seed=1))
    assert curve.steps.tolist() == [0, 120, 600, 700, 750, 1000]
    assert curve.mean.tolist() == [0, 2, 4, 4.5, 5, 5]
    assert curve.low.tolist() == [0, 0, 4, 4, 4, 4]
    assert curve.high.tolist() == [0, 4, 4, 5, 6, 6]


def test_a_run_that_solved_nothing_is_a_line_at_zero(make_recurrent):
    nothing = {**FINAL, "solved_length": 0, "levels": []}
    assert _levels(make_recurrent(LINES, nothing)).mean.tolist() == [0, 0]


def test_an_unfinished_run_has_the_levels_that_it_logged(make_recurrent):
    curve = _levels(make_recurrent(LINES))
    assert curve.steps.tolist() == [0, 500, 1000]
    assert curve.mean.tolist() == [0, 4, 6]


def test_levels_that_are_none_are_named(make_recurrent):
    folder = make_recurrent(LINES, {**FINAL, "levels": [[1]]})
    with pytest.raises(ReportError, match=r"summary\.json is broken: metrics: levels: 0: "):
        read_run(folder)


def test_the_chart_has_corners(make_recurrent):
    groups = group([read_run(make_recurrent(LINES, FINAL))])
    solved = panels(groups, "p")[0].charts[0]
    assert solved.title == "Longest length solved"
    assert "against characters read" in solved.svg
    path = re.search(r'<path d="([^"]*)"[^>]*stroke: #0072b2', solved.svg)
    assert path is not None
    points = [tuple(point.split()) for point in re.split("[ML]", path[1])[1:]]
    assert len(points) > len(LEVELS) * 2
    # Across or up, and never aslant.
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(points))


def test_the_papers_number_is_said_to_be_of_other_sizes(make_recurrent, tmp_path):
    run = make_recurrent(LINES, FINAL, units=128, batch_size=32, characters=2)
    text = " ".join(write_report([run], tmp_path / "out.html").read_text().split())
    assert "the same experiment" not in text
    assert (
        "Paper: its number in Table 1 for this task, method and unroll, of networks of the paper's "
        "sizes after at most 2,500,000 iterations; ours have units 128, batch size 32, "
        "characters 2." in text.replace("&#39;", "'")
    )


def test_sizes_that_rows_do_not_share_are_left_to_their_settings(make_recurrent):
    runs = [make_recurrent(LINES, FINAL, units=n, batch_size=32) for n in (64, 128)]
    found = table(group([read_run(run) for run in runs]))
    assert found.paper.endswith("iterations; ours have batch size 32")
    assert {row.settings for row in found.rows} == {"units 64", "units 128"}


@pytest.mark.parametrize(
    ("recipe", "settings", "paper"),
    [
        ("copy", {"threshold": 0.15}, "18"),
        ("copy", {"threshold": 0.3}, "–"),
        ("repeat-copy", {"threshold": 0.2}, "–"),
        ("ptb", {"evaluation_characters": 0}, "1.35"),
        ("ptb", {"evaluation_characters": 1000}, "–"),
    ],
)
def test_the_paper_has_no_number_for_another_task(recipe, settings, paper, make_recurrent):
    run = read_run(make_recurrent(LINES, FINAL, recipe=recipe, **settings))
    assert table(group([run])).rows[0].paper == paper


def test_bits_have_three_decimals_and_say_whose_they_are(make_recurrent):
    final = {**BPC, "bpc_level": 1.35, "data_to_bpc": 1234567, "seconds_to_bpc": 60.5}
    lines = [{"step": 100, "samples": 2000000, **BPC}]
    folder = make_recurrent(lines, {**final, "samples": 2000000}, recipe="ptb", bpc_level=1.35)
    found = table(group([read_run(folder)]))
    assert dict(zip(found.metrics, found.rows[0].values, strict=True)) == {
        "Test bits per character (best model)": "1.346",
        "Validation bits per character (best model)": "1.350",
        "Validation bits per character (last model)": "1.360",
        "Training bits per character (last)": "1.300",
        "Characters read to 1.35 bits per character": "1,234,567",
        "Training seconds to 1.35 bits per character": "60.5",
        "Characters read": "2,000,000",
    }
    assert found.has_best


def test_runs_that_never_reached_the_level_are_counted(make_recurrent):
    final = {**BPC, "data_to_bpc": 1000, "bpc_level": 1.35}
    lines = [{"step": 100, **BPC}]
    ptb = {"recipe": "ptb", "bpc_level": 1.35}
    reached = make_recurrent(lines, final, **ptb)
    never = make_recurrent(lines, final | {"data_to_bpc": None}, seed=1, **ptb)
    found = table(group([read_run(reached), read_run(never)]))
    place = found.metrics.index("Characters read to 1.35 bits per character")
    assert found.rows[0].values[place] == "1,000 (1 of 2)"


def test_bits_are_drawn_over_characters_so_that_unrolls_compare(make_recurrent):
    axes = {axis.metric: axis for axis in CURVES}
    for metric in ("train_bits", "validation_bpc", "test_bpc", "explained/boundary"):
        assert axes[metric].over == "samples"
    lines = [{"step": s, "samples": s * 100, **BPC} for s in (50, 100)]
    groups = group([read_run(make_recurrent(lines, BPC, recipe="ptb"))])
    titles = [chart.title for chart in panels(groups, "p")[0].charts]
    assert titles == ["Training error", "Validation error", "Test error of the best model so far"]
