"""The law of data parallelism: two ranks with half the rows each are one process with all."""

from functools import partial

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from tests.distributed.processes import context
from tests.recurrent.cores import CORES, stream
from tests.recurrent.test_with_torch import _Chunk, _everything

ROWS, RANKS = 4, 2


def _trained(store: str | None, rank: int, rows: slice) -> list[torch.Tensor]:
    """All parameters after three chunks of a stream, of which this process has some rows."""
    torch.manual_seed(0)
    core = CORES["LSTM"]().double()
    model: nn.Module = _Chunk(core, _everything(core))
    chunks = [stream(2, ROWS) for _ in range(3)]
    wrap = partial(DistributedDataParallel, find_unused_parameters=True)
    if store is not None:
        torch.distributed.init_process_group("gloo", store, rank=rank, world_size=RANKS)
    runs = model if store is None else wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    state = core.initial(len(range(ROWS)[rows]))
    for xs, ys in chunks:
        loss, state = runs(state, xs[:, rows], ys[:, rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if store is not None:
        torch.distributed.destroy_process_group()
    return [parameter.detach() for parameter in model.parameters()]


def _rank(store: str, rank: int, path: str) -> None:
    torch.set_num_threads(1)
    half = ROWS // RANKS
    torch.save(_trained(store, rank, slice(rank * half, (rank + 1) * half)), path)


def test_two_ranks_with_half_the_rows_are_one_process_with_all(tmp_path):
    paths = [str(tmp_path / str(rank)) for rank in range(RANKS)]
    store = f"file://{tmp_path}/store"
    ranks = [context.Process(target=_rank, args=(store, i, path)) for i, path in enumerate(paths)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    expected = _trained(None, 0, slice(None))
    for path in paths:
        assert_close(torch.load(path), expected)
