import pytest

from synthgrad.lab.report.groups import group
from synthgrad.lab.report.paper import METHODS, TABLE_2, paper_error, paper_number
from synthgrad.lab.report.results import table
from synthgrad.lab.report.rounding import number, seconds, span, spread
from synthgrad.lab.report.runs import read_run


def _groups(*folders):
    return group(read_run(folder) for folder in folders)


def test_seeds_are_aggregated(make_run):
    finals = (1.0, 2.0, 4.5)
    folders = [make_run("cdni", s, final={"test_error": e}) for s, e in enumerate(finals)]
    found = table(_groups(*folders))
    (row,) = found.rows
    assert found.metrics == ("Test error, %",)
    # (1 + 2 + 4.5) / 3, and the square root of ((1.5² + 0.5² + 2²) / 2).
    assert row.values == ("2.50 ± 1.80",)
    assert (row.size, row.method, row.seeds) == ("4", "cdni", "3")
    assert (row.iterations, row.seconds, row.paper) == ("3,500", "41.5", "1.9")
    assert (row.settings, row.unfinished) == ("", "")


def test_other_settings_make_other_rows_and_only_they_are_told(make_run):
    shared = {"units": 256, "eval_every": 10}
    groups = _groups(
        make_run("dni", 0, learning_rate=3e-5, **shared),
        make_run("dni", 1, learning_rate=3e-5, **shared),
        make_run("dni", 0, learning_rate=1e-3, **shared | {"eval_every": 50}),
        make_run("backprop", 0, learning_rate=1e-3, **shared),
        make_run("backprop", 0, layers=3, learning_rate=1e-3, **shared),
    )
    assert [(g.layers, g.label, len(g.runs)) for g in groups] == [
        (3, "backprop", 1),
        (4, "backprop", 1),
        (4, "dni, learning rate 0.001", 1),
        (4, "dni, learning rate 3e-05", 2),
    ]
    found = table(groups)
    assert found.has_settings
    assert [row.settings for row in found.rows] == [
        "learning rate 0.001",
        "learning rate 0.001",
        "learning rate 0.001",
        "learning rate 3e-05",
    ]


def test_recipes_keep_their_order_and_methods_have_one(make_run):
    methods = ("cdni", "kickback", "none", "dni", "backprop", "stale")
    folders = [make_run("dni", recipe="z"), *(make_run(m, recipe="a") for m in methods)]
    groups = _groups(*folders)
    assert [g.recipe for g in groups] == ["z"] + ["a"] * 6
    assert [g.method for g in groups[1:]] == [
        *("backprop", "none", "stale", "dni", "cdni", "kickback")
    ]


def test_unfinished_runs_count_only_alone(make_run):
    folders = [make_run("cdni", 0, final={"test_error": 1.5}), make_run("cdni", 1, finished=False)]
    folders += [make_run("dni", 0, finished=False)]
    cdni, dni = sorted(table(_groups(*folders)).rows, key=lambda row: row.method)
    assert (cdni.unfinished, cdni.seeds, cdni.values[0]) == ("+ 1 unfinished", "1", "1.50")
    last = read_run(folders[2]).series["test_error"][1400]
    assert (dni.unfinished, dni.values[0]) == ("unfinished", f"{last:.2f}")
    assert (dni.iterations, dni.seconds) == ("1,400 of 3,500", "–")


def test_same_seed_twice_is_said_and_is_no_spread(make_run):
    finals = {"test_error": 4.0}, {"test_error": 4.2}
    first = make_run("cdni", 0, final=finals[0])
    second = make_run("cdni", 0, final=finals[1], eval_every=7)
    (row,) = table(_groups(first, second)).rows
    assert (row.seeds, row.values) == ("1 (2 runs)", ("4.10",))
    # Nor does it make its seed count twice: 4.1 and 5.1.
    (row,) = table(_groups(first, second, make_run("cdni", 1, final={"test_error": 5.1}))).rows
    assert (row.seeds, row.values) == ("2 (3 runs)", ("4.60 ± 0.71",))


def test_metrics_of_any_name_are_shown_but_not_those_of_interfaces(make_run):
    final = {"bits_per_character": 1.3456, "interface/h/l2": 1.0, "test_error": 2}
    found = table(_groups(make_run(final=final)))
    assert found.metrics == ("Test error, %", "bits per character")
    assert found.rows[0].values == ("2.00", "1.35")


def test_diverged_run_is_not_averaged_away(make_run):
    folders = [make_run(seed=s, final={"train_loss": v}) for s, v in enumerate((1.0, float("nan")))]
    assert table(_groups(*folders)).rows[0].values == ("not finite",)


@pytest.mark.parametrize(
    ("recipe", "layers", "method", "config", "expected"),
    [
        ("mnist-fcn", 4, "none", {}, 12.6),
        ("mnist-fcn", 6, "cdni", {"interfaces": "all", "lambda": 0.0, "p_update": 1.0}, 1.6),
        ("mnist-fcn", 5, "stale", {}, 15.4),
        ("cifar10-cnn", 4, "dni", {"unlock": "update"}, 19.5),
        ("cifar10-fcn", 3, "backprop", {"lambda": 0.5}, 43.5),  # which backprop does not have
        ("mnist-fcn", 4, "cdni", {"lambda": 0.5}, None),
        ("mnist-fcn", 4, "dni", {"interfaces": "1,3"}, None),
        ("mnist-fcn", 4, "dni", {"p_update": 0.2}, None),
        ("mnist-fcn", 4, "dni", {"unlock": "full"}, None),
        ("mnist-fcn", 21, "cdni", {}, 2.0),
        ("mnist-fcn", 21, "none", {}, None),
        ("mnist-fcn", 6, "dni", {"interfaces": "5"}, 3.4),
        ("mnist-fcn", 6, "none", {"interfaces": "1"}, 2.9),
        ("mnist-fcn", 6, "dni", {"interfaces": "2"}, None),
        ("mnist-fcn", 5, "dni", {"interfaces": "1"}, None),
        ("mnist-fcn", None, "cdni", {}, None),
        ("mnist-cnn", 3, "stale", {}, None),
        ("mnist-cnn", 3, "kickback", {}, None),
        ("digits-fcn", 4, "cdni", {}, None),
    ],
)
def test_paper_stands_only_beside_its_own_experiment(recipe, layers, method, config, expected):
    assert paper_error(recipe, layers, method, config) == expected


def test_paper_rows_are_plausible():
    for row in TABLE_2.values():
        by = dict(zip(METHODS, row, strict=True))
        assert by["none"] > by["backprop"]
        assert all(0 < value < 100 for value in row)


def test_numbers_have_as_many_digits_as_they_deserve():
    assert number("test_error", 1.555) == "1.55"
    assert number("train_loss", 0.0530449) == "0.0530"
    assert number("train_loss", 1234.5) == "1,234"
    assert number("train_loss", 1.2e-7) == "1.20e-07"
    assert number("sign_error", 0.2345) == "0.234"
    assert number("cosine", -0.5) == "-0.500"
    assert number("cosine", 0) == "0"
    assert number("cosine", float("inf")) == "inf"
    assert spread("train_loss", [0.05, 0.06]) == "0.0550 ± 0.0071"
    assert spread("train_loss", []) == "–"
    assert span([5, 5]) == "5"
    assert span([1500, 900]) == "900–1,500"
    assert seconds([1000, 2000]) == "1,500"


@pytest.mark.parametrize(
    ("recipe", "method", "unroll", "expected"),
    [
        ("copy", "bptt", 2, "7"),
        ("repeat-copy", "dni-aux", 4, "67"),
        ("ptb", "dni", 5, "1.35"),
        ("ptb", "bptt", 40, "1.34"),
        ("ptb", "dni", 40, None),
        ("copy", "dni", 7, None),
        ("copy", "kickback", 2, None),
    ],
)
def test_table_1_stands_beside_its_own_unroll(recipe, method, unroll, expected):
    assert paper_number(recipe, None, method, {"unroll": unroll}) == expected


def test_recurrent_rows_begin_with_their_unroll(make_run):
    folders = [make_run("dni", recipe="copy", unroll=unroll) for unroll in (5, 2)]
    for folder in folders:  # they have no layers
        for path in (folder / "config.json", folder / "summary.json"):
            path.write_text(path.read_text().replace('"layers": 4, ', ""))
    found = table(_groups(*folders))
    assert (found.size, sorted(row.size for row in found.rows)) == ("Unroll", ["2", "5"])
    assert table(_groups(make_run())).size == "Layers"
