"""Shape annotations are checked while tests run; everything is deterministic and on one thread."""

from jaxtyping import install_import_hook

with install_import_hook("synthgrad", "beartype.beartype"):
    import synthgrad  # noqa: F401

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("synthgrad", deadline=None, max_examples=25)
hypothesis.settings.load_profile("synthgrad")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
