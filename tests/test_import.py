"""``import synthgrad`` in a Python that has torch and nothing else."""

import subprocess
import sys
import textwrap

import pytest

WITHOUT = """
    import sys

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {missing}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Missing())
"""
USE = """
    import torch
    import synthgrad as sg

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    sg.decouple(model, "1", "linear", context=2)
    with sg.context(torch.tensor([0, 1])):
        model(torch.ones(2, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    print(sg.__version__)
"""
LAB = {
    "jinja2", "matplotlib", "numpy", "pandas", "pooch", "pydantic", "rich", "sklearn",
    "tensorboard", "tyro",
}  # fmt: skip


def _run(missing, code):
    script = textwrap.dedent(WITHOUT.format(missing=missing or set())) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    "missing", [{"jaxtyping", "beartype", "typeguard"}, {"jaxtyping", *LAB}], ids=["types", "all"]
)
def test_the_library_works_without(missing):
    done = _run(missing, USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_library_does_not_load_the_lab():
    done = _run(set(), "import synthgrad\nprint(*(m for m in sys.modules if '.lab' in m))")
    assert done.returncode == 0, done.stderr
    assert "synthgrad.lab" not in done.stdout


def test_what_is_missing_is_missed():
    done = _run({"jaxtyping"}, "import jaxtyping")
    assert done.returncode == 1
    assert "No module named 'jaxtyping'" in done.stderr
