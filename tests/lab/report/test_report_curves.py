from pathlib import Path

import numpy as np
import pytest

from synthgrad.lab.report.charts import MAX_LEGEND, Axis, Line, Look, chart
from synthgrad.lab.report.curves import MAX_POINTS, Curve, across
from synthgrad.lab.report.runs import Run, Summary


def _run(series, seed=0, done=False):
    summary = Summary(1, 1.0, {}, {}, {}, None) if done else None
    return Run(Path("r"), "r", "dni", seed, 4, {}, {"m": series}, summary)


def test_another_metric_can_say_how_far_a_run_is():
    series = {"m": {1: 5.0, 2: 6.0, 3: 7.0}, "samples": {1: 100.0, 2: 200.0}}
    run = Run(Path("r"), "r", "dni", 0, None, {}, series, None)
    curve = across([run], "m", over="samples")
    assert curve is not None
    assert curve.steps.tolist() == [100, 200]
    assert curve.mean.tolist() == [5, 6]
    assert across([_run({1: 1.0})], "m", over="samples") is None


def test_mean_and_reach_at_shared_steps():
    curve = across([_run({1: 1.0, 2: 2.0}), _run({1: 3.0, 2: 0.0})], "m")
    assert curve is not None
    assert curve.steps.tolist() == [1, 2]
    assert curve.mean.tolist() == [2, 1]
    assert curve.low.tolist() == [1, 0]
    assert curve.high.tolist() == [3, 2]
    assert curve.last == 1


def test_other_steps_are_interpolated_from_where_all_have_values():
    runs = [_run({0: 0.0, 10: 10.0, 20: 20.0}), _run({5: 1.0, 20: 1.0})]
    curve = across(runs, "m")
    assert curve is not None
    assert curve.steps.tolist() == [5, 10, 20]
    assert curve.mean.tolist() == [3, 5.5, 10.5]


def test_a_run_that_stopped_early_keeps_its_last_value():
    runs = [_run({1: 4.0, 2: 2.0}, done=True), _run({1: 4.0, 2: 3.0, 3: 1.0, 4: 0.0}, done=True)]
    curve = across(runs, "m")
    assert curve is not None
    assert curve.steps.tolist() == [1, 2, 3, 4]
    assert curve.mean.tolist() == [4, 2.5, 1.5, 1]  # as in the table: the mean of their last
    assert curve.high.tolist() == [4, 3, 2, 2]


def test_an_unfinished_run_counts_as_far_as_it_has_come():
    curve = across([_run({1: 4.0, 2: 2.0}), _run({1: 4.0, 2: 3.0, 3: 1.0})], "m")
    assert curve is not None
    assert curve.mean.tolist() == [4, 2.5, 1]
    assert (curve.low[-1], curve.high[-1]) == (1, 1)


def test_a_run_that_diverged_is_not_averaged_away():
    curve = across([_run({1: 4.0, 2: np.nan}, done=True), _run({1: 4.0, 2: 3.0}, done=True)], "m")
    assert curve is not None
    assert np.isnan(curve.last)


def test_nothing_to_show():
    assert across([_run({1: 1.0})], "other") is None
    assert across([], "m") is None


def test_a_run_that_does_not_say_how_far_it_is_hides_no_other():
    series = {"m": {1: 5.0}, "samples": {1: 100.0}}
    run = Run(Path("r"), "r", "dni", 0, None, {}, series, None)
    curve = across([run, _run({1: 1.0})], "m", over="samples")
    assert curve is not None
    assert curve.mean.tolist() == [5]


def test_long_series_are_thinned_to_means_that_keep_the_reach():
    values = np.sin(np.arange(10_000))
    curve = across([_run(dict(enumerate(values.tolist())))], "m")
    assert curve is not None
    assert len(curve.steps) == MAX_POINTS
    assert curve.low.min() == values.min()
    assert curve.mean.mean() == pytest.approx(values.mean(), abs=1e-3)


def _chart(values, axis=None, lines=1):
    values = np.asarray(values, dtype=float)
    curve = Curve(np.arange(len(values)) * 100, values, values, values)
    axis = axis or Axis("test_error", "Test error", "test error, %")
    return chart(axis, [Line(f"line{i}", curve, Look("#000000")) for i in range(lines)], "x", "p")


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([90, 20, 1.5], ["2", "5", "10", "20", "50"]),  # wide: logarithmic
        ([9, 8, 7], ["0", "2", "4", "6", "8"]),  # narrow: linear, from zero
        ([100, 0.02, 0.0], ["0", "0.01", "0.1", "1", "10", "100"]),  # zero on a logarithmic axis
    ],
)
def test_axis_fits_the_range(values, ticks):
    texts = [part.partition("<")[0] for part in _chart(values).svg.split('">')]
    assert [text for text in texts if text in ticks] != []
    assert set(ticks) <= set(texts)


@pytest.mark.parametrize("values", [[5.0], [np.nan, 1, 2], [np.nan], [np.inf, 1], [0, 0], [-1, 2]])
def test_odd_values_can_be_drawn(values):
    assert "<svg" in _chart(values).svg
    assert "<svg" in _chart(values, Axis("cosine", "Cosine", "cosine", limits=(0, 1))).svg


def test_legend_names_some_of_many():
    assert len(_chart([1, 2], lines=MAX_LEGEND).legend) == MAX_LEGEND
    many = _chart([1, 2], lines=20)
    assert [line.label for line in many.legend] == ["line0", "line5", "line10", "line14", "line19"]
    assert many.of == 20


def test_svg_is_a_described_element_with_text_and_unique_ids():
    svg = _chart([90, 2], lines=2).svg
    assert svg.startswith("<svg viewBox=")
    assert 'role="img" aria-label="Test error against training steps, x. At the end: ' in svg
    assert ">test error, %</text>" in svg
    assert "http" not in svg
    assert "<style" not in svg
    assert svg.count('id="') == svg.count('id="p-')
    assert svg.count("url(#") == svg.count("url(#p-")


def test_small_differences_are_not_lost_below_a_long_way_from_zero():
    values = [1.42, 1.40, 1.38]
    near = _chart(values, Axis("test_bpc", "Test", "bits", from_zero=False))
    assert ">1.40<" in near.svg
    assert ">0.00<" not in near.svg
    assert ">0.00<" in _chart(values, Axis("test_bpc", "Test", "bits")).svg
