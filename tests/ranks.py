"""A group of ranks for DistributedDataParallel to run in."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed


@contextmanager
def group(folder: Path, rank: int = 0, size: int = 1) -> Iterator[None]:
    """No name may hold a wrapped model at the end: whoever owns the group last ends it.

    A reducer that does so joins gloo's threads with the GIL held, for which one of them may be
    waiting (pytorch issue 56297); the group's own end lets go of it.
    """
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    try:
        yield
    finally:
        gc.collect()
        distributed.destroy_process_group()
