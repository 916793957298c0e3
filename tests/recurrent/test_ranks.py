"""The law of data parallelism: two ranks with half the rows each are one process with all."""

from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from tests.distributed.processes import context
from tests.ranks import group
from tests.recurrent.cores import CORES, stream
from tests.recurrent.test_with_torch import _Chunk, _everything

ROWS, RANKS = 4, 2


def _model() -> _Chunk:
    torch.manual_seed(0)
    core = CORES["LSTM"]().double()
    return _Chunk(core, _everything(core))


def _train(model: nn.Module, rows: slice) -> None:
    """Three chunks of a stream, of which this process has some rows."""
    torch.manual_seed(1)
    chunks = [stream(2, ROWS) for _ in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    state = CORES["LSTM"]().double().initial(len(range(ROWS)[rows]))
    for xs, ys in chunks:
        loss, state = model(state, xs[:, rows], ys[:, rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _parameters(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def _rank(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    half = ROWS // RANKS
    rows = slice(rank * half, (rank + 1) * half)
    model = _model()
    with group(folder, rank, RANKS):
        _train(DistributedDataParallel(model, find_unused_parameters=True), rows)
    torch.save(_parameters(model), folder / str(rank))


def test_two_ranks_with_half_the_rows_are_one_process_with_all(tmp_path):
    ranks = [context.Process(target=_rank, args=(tmp_path, rank)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    expected = _model()
    _train(expected, slice(None))
    for rank in range(RANKS):
        assert_close(torch.load(tmp_path / str(rank)), _parameters(expected))
