"""Figure 5 from the command's own function to its page, in small."""

import re
from dataclasses import replace

import pytest

import synthgrad.lab.experiments as registry
from synthgrad.lab.cli import main
from synthgrad.lab.experiments import ALL
from synthgrad.lab.reproduce import reproduce
from synthgrad.lab.runs.progress import outcome
from synthgrad.lab.runs.run import run
from synthgrad.lab.tables import TABLES


def _small():
    defaults = ALL["multi-network"].defaults.changed(units=8, batch_size=8, unroll=2, eval_every=2)
    return replace(ALL["multi-network"], data="digits", defaults=defaults, iterations=6)


def test_figure_5_is_three_or_more_ways_to_train_the_same_networks():
    configs = {cell.name: cell.config(None, seed=0) for cell in TABLES["fig5"].cells}
    assert {"backprop", "dni", "none"} <= configs.keys()
    own = {"method", "scale", "learning_rate", "feedback_learning_rate"}
    shared = [
        {k: v for k, v in config.model_dump().items() if k not in own}
        for config in configs.values()
    ]
    assert all(one == shared[0] for one in shared)
    assert {config.unroll for config in configs.values()} == {4}


def test_the_papers_schedule():
    config = TABLES["fig5"].cells[0].config(None, schedule="paper")
    assert (config.iterations, config.learning_rate) == (100_000, 1e-5)
    assert TABLES["fig5"].cells[0].config(0.01).iterations == 1000


def test_the_page_shows_both_tasks_over_ticks(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.ALL, "multi-network", _small())
    page = reproduce("fig5", tmp_path, threads=1).read_text(encoding="utf-8")
    for title in ("Test error of network A (odd digits)", "Test error of network B (threes)"):
        assert page.count(f"<figcaption>{title}</figcaption>") == 1
        label = re.search(f'aria-label="{re.escape(title)} against ticks[^"]*"', page)
        assert label is not None
        for method in ("backprop", "none", "dni"):
            assert method in label[0]
    assert page.count(">ticks</text>") == 2


def test_a_run_says_what_it_came_to(tmp_path):
    small = _small()
    summary = run(small, small.defaults.changed(iterations=2, threads=1), tmp_path)
    error = summary["metrics"]["test_error_b"]
    assert outcome(summary).startswith(f"test error of network B {error:.2f}% after 2 iterations")
    assert summary["examples"] == 2 * 4 * 8


def test_the_command_line_has_its_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "multi-network", "--help"])
    assert ended.value.code == 0
    helped = capsys.readouterr().out
    for option in ("--method {backprop,none,dni,cdni}", "--unroll", "--scale", "--feedback-hidden"):
        assert option in helped
