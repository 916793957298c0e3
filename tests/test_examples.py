"""What users copy runs, and learns."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 3
    exec(compile("\n".join(blocks), "README.md", "exec"), {"__name__": "readme"})


def test_the_readmes_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
