"""What the server loads from which the benchmark's processes are forked."""

import sklearn.datasets  # noqa: F401  (digits)
import torch._dynamo  # noqa: F401  (the first optimiser would load it, in every process)

from benchmarks.pipeline import decoupled, locked, plain, worker

__all__ = ["decoupled", "locked", "plain", "worker"]
