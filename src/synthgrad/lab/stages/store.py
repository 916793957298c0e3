"""``synthgrad store``: where stages on several machines meet."""

from __future__ import annotations

import time

from synthgrad.distributed import serve
from synthgrad.lab.errors import UsageError
from synthgrad.lab.runs.signals import noted_signals


def keep(port: int, host: str) -> None:
    """Keeps a store open until SIGINT or SIGTERM.

    Raises:
        UsageError: it cannot listen there.
    """
    try:
        kept = serve(port, host)
    except ValueError as error:
        raise UsageError(f"--port, --host: {error}") from None
    with noted_signals() as stop:
        print(f"the stages meet at {host}:{kept.port}", flush=True)
        while not stop:
            time.sleep(0.1)
