"""What users copy runs, and learns."""

import importlib.util
import re
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg
from tests.pages import ROOT, run


def _load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "steps", "chance"),
    [
        ("plain_loop", 600, 75),
        ("unlocked_residual", 800, 90),
        ("recurrent", 1500, 100),
        ("two_rates", 1200, 100),
    ],
)
def test_the_example_learns(name, steps, chance):
    assert _load(name).main(steps) < chance / 3


def test_two_stages_learn_in_processes_of_their_own():
    example = ROOT / "examples" / "two_stages.py"
    ran = subprocess.run(
        [sys.executable, str(example), "1200"], capture_output=True, text=True, timeout=120
    )
    found = re.search(r"test error ([\d.]+)%", ran.stdout)
    assert found is not None, ran.stderr
    assert float(found[1]) < 75 / 3


def test_the_readmes_code_runs():
    run("README.md", slice(None))


def test_complete_unlocking_runs_as_documented():
    names = run("docs/method.md", slice(None))
    assert sum(names["unlocked"].updates.values()) > 0


def test_a_schedule_of_ones_own_runs_as_documented():
    names = run("docs/schedules.md", slice(None))
    updates = names["schedule"].updates
    assert updates["output"] == 10
    assert sum(updates[name] for name in "012") == 2 * 10


def test_the_recurrent_loop_runs_as_documented():
    chunks = [(torch.randn(3, 4, 10), torch.randint(10, (3, 4))) for _ in range(3)]
    names = run(
        "docs/recurrent.md", slice(1), torch=torch, nn=nn, F=F, sg=sg, batch=4, chunks=chunks
    )
    assert names["bridge"].explained["boundary"].now.isfinite()


def test_the_readmes_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
