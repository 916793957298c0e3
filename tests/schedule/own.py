"""The schedule of docs/schedules.md, so that all that holds for ours is asked of it too."""

from functools import partial
from typing import Any

from tests.pages import run

Loudest: Any = run("docs/schedules.md", slice(1))["Loudest"]
everybody: Any = partial(Loudest, share=1.0)
"""All segments go, from the last one on and then by the size of their errors."""
