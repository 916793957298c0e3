"""Figure 7: errors against the probability of an update."""

import re

import pytest

from synthgrad.lab.report import write_report
from synthgrad.lab.report.chance import LEAST, charts, families
from synthgrad.lab.report.groups import group
from synthgrad.lab.report.runs import read_run

PROBABILITIES = (0.025, 0.2, 0.5, 0.975)


@pytest.fixture
def grid(make_run):
    """Runs of both methods at several probabilities, and backprop."""

    def make(probabilities=PROBABILITIES, unlock="no", seeds=(0,), **values):
        return [
            make_run(method, seed, p_update=p, unlock=unlock, **values)
            for method in ("dni", "cdni")
            for p in probabilities
            for seed in seeds
        ]

    return make


def _families(folders):
    return families(group([read_run(folder) for folder in folders]))


def _charts(family, references=()):
    return list(charts(family, references, "mnist-fcn 4 layers", "p", iter(range(9))))


def test_a_family_differs_in_its_probability_alone(grid, make_run):
    folders = grid() + grid(unlock="full") + [make_run("backprop", p_update=1.0, unlock="no")]
    found = _families(folders)
    assert [(f[0].method, f[0].runs[0].config["unlock"], len(f)) for f in found] == [
        ("dni", "full", 4),
        ("dni", "no", 4),
        ("cdni", "full", 4),
        ("cdni", "no", 4),
    ]
    assert not _families(grid(probabilities=PROBABILITIES[: LEAST - 1], layers=3))


def test_every_run_is_a_point_after_each_number_of_iterations(grid):
    folders = grid(seeds=(0, 1))
    family = _families(folders)[1]
    (chart,) = _charts(family)
    assert chart.title == "Test error by p_update: cdni"
    # A tenth, three tenths and all of 3,500, as far as that was logged: every 50 steps.
    assert [line.label for line in chart.legend] == [
        "350 iterations",
        "1,050 iterations",
        "3,500 iterations",
    ]
    for line, step in zip(chart.legend, (350, 1050, 3500), strict=True):
        expected = sorted(
            (p, read_run(folder).series["test_error"][step])
            for folder in folders
            if (p := read_run(folder).config["p_update"]) and read_run(folder).method == "cdni"
        )
        assert list(zip(line.curve.steps, line.curve.mean, strict=True)) == expected
        assert len(expected) == 8
    marks = [chart.svg.count(f"fill: {line.look.colour.lower()}") for line in chart.legend]
    assert all(mark > 0 for mark in marks)
    assert re.search(r'aria-label="Test error by p_update, mnist-fcn 4 layers, cdni\.', chart.svg)


def test_backprop_stands_at_a_probability_of_1(grid, make_run):
    folders = [*grid(), make_run("backprop", p_update=1.0, unlock="no")]
    groups = group([read_run(folder) for folder in folders])
    (chart,) = _charts(families(groups)[0], [g for g in groups if g.method == "backprop"])
    last = chart.legend[-1]
    assert (last.label, last.curve.steps.tolist()) == ("backprop", [1.0])
    assert last.curve.last == read_run(folders[-1]).series["test_error"][3500]


def test_an_unfinished_run_is_left_out_and_takes_no_other_point_with_it(grid, make_run, tmp_path):
    late = make_run("cdni", p_update=0.9, unlock="no", finished=False)
    never = make_run("cdni", p_update=0.95, unlock="no", finished=False)
    (never / "metrics.jsonl").unlink()
    folders = [*grid(), late, never]
    (chart,) = _charts(_families(folders)[1])
    assert [line.label for line in chart.legend][-1] == "3,500 iterations"
    assert chart.legend[-1].curve.steps.tolist() == list(PROBABILITIES)
    text = write_report(folders, tmp_path / "out.html").read_text()
    assert "<figcaption>Test error by p_update: cdni</figcaption>" in text
    # Where a run that is not done is seen: among the curves.
    assert "cdni, p update 0.9 (unfinished)" in text


def test_what_is_unfinished_is_not_enough_for_a_chart(make_run):
    folders = [make_run("cdni", p_update=p, unlock="no") for p in (0.1, 0.5)]
    folders += [make_run("cdni", p_update=0.9, unlock="no", finished=False)]
    assert not _families(folders)
    groups = group([read_run(folder) for folder in folders])
    unfinished = [g for g in groups if not g.finished]
    (chart,) = _charts([g for g in groups if g.finished], unfinished)
    assert all(line.label.endswith("iterations") for line in chart.legend)


def test_the_page_has_points_in_place_of_a_line_for_each_run(grid, tmp_path):
    text = write_report(grid(), tmp_path / "out.html").read_text()
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert titles == ["Test error by p_update: dni", "Test error by p_update: cdni"]
    assert "<h3>4 layers, each updated by chance</h3>" in text
    assert text.count("<figure>") == 2


def test_two_probabilities_are_curves_like_any(grid, tmp_path):
    text = write_report(grid(probabilities=(0.2, 1.0)), tmp_path / "out.html").read_text()
    assert "by p_update:" not in text
    assert "<figcaption>Test error</figcaption>" in text
