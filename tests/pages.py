"""Runs the code in the documentation."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def run(page: str, blocks: slice, **given: Any) -> dict[str, Any]:
    """A page's code as a user would paste it, with what the text around it takes for granted."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[blocks]
    assert found
    names = {"__name__": "page", **given}
    exec(compile("\n".join(found), page, "exec"), names)
    return names
