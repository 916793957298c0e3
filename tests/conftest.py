"""Shape annotations are checked while tests run; everything is deterministic and on one thread."""

from jaxtyping import install_import_hook

with install_import_hook(["synthgrad", "benchmarks"], "beartype.beartype"):
    import synthgrad  # noqa: F401

import signal

import hypothesis
import jaxtyping
import pytest
import torch

hypothesis.settings.register_profile("synthgrad", deadline=None, max_examples=25)
hypothesis.settings.load_profile("synthgrad")
torch.set_num_threads(1)
# In the background of a shell Ctrl-C is ignored, and what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    # Said in pyproject.toml, it would make pytest import synthgrad before the hook above is there.
    config.addinivalue_line("filterwarnings", "error::synthgrad.errors.SynthgradWarning")
    # No mistake of a test's, but what the processor lacks.
    config.addinivalue_line(
        "filterwarnings", "ignore:--precision bfloat16:synthgrad.errors.SynthgradWarning"
    )


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def as_installed():
    """The library as users run it, without checked annotations: its own errors are at work."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
