"""Which settings tell runs apart."""

import pytest

from synthgrad.lab.experiments import ALL
from synthgrad.lab.report.groups import group
from synthgrad.lab.report.results import table
from synthgrad.lab.report.runs import read_run
from synthgrad.lab.report.settings import settings
from synthgrad.lab.runs import folder


def _groups(*folders):
    return group(read_run(folder) for folder in folders)


@pytest.mark.parametrize("name", sorted(n for n in folder._MAY_DIFFER if "." not in n))
def test_where_and_how_fast_a_run_goes_does_not_part_it_from_other_seeds(name, make_run):
    runs = [make_run("cdni", seed, **{name: value}) for seed, value in enumerate(("a", "b"))]
    (one,) = _groups(*runs)
    assert (len(one.runs), one.label) == (2, "cdni")


def test_nor_does_how_long_a_pipeline_waits(make_run):
    pipelines = [{"stages": 2, "timeout": 1.0}, {"stages": 2, "timeout": 9.0}, {"stages": 3}]
    runs = [make_run("cdni", seed, pipeline=p) for seed, p in enumerate(pipelines)]
    assert [(g.label, len(g.runs)) for g in _groups(*runs)] == [
        ("cdni, pipeline stages 2", 2),
        ("cdni, pipeline stages 3", 1),
    ]


def test_samples_and_the_equal_iterations_are_one_setting(make_run):
    runs = [make_run("cdni", seed, samples=samples) for seed, samples in enumerate((0, 3500))]
    assert len(_groups(*runs)) == 1
    assert len(_groups(*runs, make_run("cdni", iterations=50))) == 2


def test_evaluations_that_decide_when_training_stops_are_a_setting(make_run):
    runs = [make_run("cdni", eval_every=n, patience=1) for n in (7, 50)]
    assert len(_groups(*runs)) == 2
    assert len(_groups(*(make_run("cdni", eval_every=n, patience=0) for n in (7, 50)))) == 1


def test_no_method_is_told_by_what_it_does_not_have(make_run):
    shared = {"recipe": "multi-network", "scale": 10.0, "learning_rate": 1e-3}
    groups = _groups(
        make_run("backprop", feedback_learning_rate=0.002, **shared),
        make_run("none", feedback_learning_rate=0.002, **shared),
        make_run("dni", feedback_learning_rate=0.001, **shared),
        make_run("cdni", feedback_learning_rate=0.003, **shared | {"scale": 3.0}),
    )
    assert [row.settings for row in table(groups).rows] == [
        "",
        "",
        "feedback learning rate 0.001, scale 10",
        "feedback learning rate 0.003, scale 3",
    ]


def test_what_a_method_does_not_have_does_not_part_its_runs(make_run):
    runs = [make_run("backprop", seed, warmup=seed) for seed in (0, 1)]
    assert len(_groups(*runs)) == 1
    assert len(_groups(*(make_run("cdni", seed, warmup=seed) for seed in (0, 1)))) == 2


@pytest.mark.parametrize(
    ("recipe", "method", "left"),
    [
        ("mnist-fcn", "backprop", set()),
        ("mnist-fcn", "stale", {"interfaces", "lambda", "warmup", "p_update", "decay"}),
        ("mnist-fcn", "cdni", {"interfaces", "lambda", "warmup", "p_update", "feedback_hidden"}),
        ("copy", "bptt", set()),
        ("copy", "dni", {"scale", "warmup", "feedback_hidden"}),
        ("ptb", "dni-aux", {"scale", "warmup", "feedback_hidden", "auxiliary_hidden"}),
        ("multi-network", "none", set()),
        ("multi-network", "cdni", {"scale", "feedback_hidden"}),
    ],
)
def test_each_recipe_has_the_settings_of_its_methods(recipe, method, left, make_recurrent):
    asked = ("interfaces", "lambda", "warmup", "p_update", "decay", "input_learning_rate")
    asked += ("scale", "feedback_hidden", "auxiliary_hidden")
    config = {k: v for k, v in ALL[recipe].defaults.to_json().items() if k in asked}
    run = read_run(make_recurrent([], None, method, recipe=recipe, unlock="no", **config))
    assert {name for name in asked if name in settings(run)} == left


def test_columns_are_not_repeated_and_legends_say_no_more_than_they_need(make_recurrent):
    groups = _groups(
        *(
            make_recurrent(
                [{"step": n, "solved_length": 4, "samples": 300}],
                {"solved_length": 4, "samples": 300},
                unroll=unroll,
                iterations=n,
                learning_rate=0.012649110640673518 * unroll,
            )
            for unroll, n in ((20, 15), (3, 100))
        )
    )
    assert [g.label for g in groups] == ["dni, unroll 3", "dni, unroll 20"]
    rows = table(groups).rows
    assert [row.size for row in rows] == ["3", "20"]
    assert [row.settings for row in rows] == ["learning rate 0.03795", "learning rate 0.253"]


def test_iterations_that_were_not_all_done_are_said(make_recurrent):
    runs = [
        make_recurrent([{"step": 60, "test_bpc": 1.4}], {"test_bpc": 1.4}, iterations=n, clip=n)
        for n in (60, 90)
    ]
    stopped = table(_groups(*runs)).rows[1]
    assert (stopped.iterations, stopped.settings) == ("60", "iterations 90, clip 90")
