"""What the server loads from which the benchmark's processes are forked."""

import sklearn.datasets  # noqa: F401  (digits)

from synthgrad.lab.bench.pipeline import decoupled, locked, plain, worker

__all__ = ["decoupled", "locked", "plain", "worker"]
