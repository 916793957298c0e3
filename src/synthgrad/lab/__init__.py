"""Everything that knows a data set, a file or a screen; behind ``pip install synthgrad[lab]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``synthgrad``; says what to install where the extra is missing."""
    try:
        from synthgrad.lab.cli import main as run
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("synthgrad"):
            raise
        sys.exit(
            f"synthgrad: the command line needs {error.name}, which is not installed: "
            'pip install "synthgrad[lab]"'
        )
    run(arguments)
