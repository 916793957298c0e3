"""The command ``synthgrad``, before anything that takes time to import.

Importing torch and the lab takes seconds, in which Ctrl-C would end in a traceback from wherever
the import was, or from half-made C++ modules. This module stands beside the package, because to
import anything inside is to import torch, and needs the standard library alone.
"""

from __future__ import annotations

import os

LINE = b"synthgrad: stopped\n"

try:
    import signal
    import sys
    from contextlib import suppress
except KeyboardInterrupt:  # before there was a handler
    os.write(2, LINE)
    os._exit(130)


def stop_at_once_on_sigint() -> None:
    """From now on Ctrl-C ends the process with one line and exit code 130.

    Nothing is unwound: whoever has something to lose (a run, processes of its own) takes the signal
    over while that is so (:func:`synthgrad.lab.runs.signals.noted_signals`).
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored (nohup)
        signal.signal(signal.SIGINT, _stop)


def _stop(*_: object) -> None:
    with suppress(OSError, ValueError, RuntimeError, AttributeError):  # full, closed, in use
        sys.stdout.flush()
    try:
        os.write(2, LINE)
    finally:
        os._exit(130)


def main() -> None:
    """The command line; ends the process."""
    stop_at_once_on_sigint()
    from synthgrad.lab import main as run

    run()


if __name__ == "__main__":
    main()
