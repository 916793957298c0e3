"""Everything that knows a data set, a file or a screen; behind ``pip install synthgrad[lab]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from synthgrad_cli import stop_at_once_on_sigint


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``synthgrad``; says what to install where the extra is missing."""
    if arguments is None:  # the process is ours
        stop_at_once_on_sigint()
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
