"""Chunks under ``torch.utils.checkpoint``."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from synthgrad.errors import LockingError
from tests.recurrent.cores import CORES, bridge, by_each, gradients, stream, unroll

CHUNKS = 3


class _Chunk(nn.Module):
    def __init__(self, core, it):
        super().__init__()
        self.core, self.it = core, it

    def forward(self, xs, ys, state, **options):
        loss, state, messages, _ = unroll(self.core, xs, ys, self.it.begin(state))
        return loss + self.it.end(state, messages[-1], **options), state


def _run(how, **options):
    """The gradients of each chunk."""
    torch.manual_seed(0)
    core = CORES["GRUCell"]().double()
    model = _Chunk(core, bridge(core, scale=1.0))
    state, found = core.initial(4), []
    for _ in range(CHUNKS):
        model.zero_grad()
        xs, ys = stream(2, 4)
        xs.requires_grad_()  # else nothing of a reentrant checkpoint has a gradient
        if how == "plain":
            loss, state = model(xs, ys, state, **options)
        else:
            reentrant = how == "reentrant"
            loss, state = checkpoint(model, xs, ys, state, use_reentrant=reentrant, **options)
        loss.backward()
        state = state.detach()
        found.append(gradients(model))
    return found


def test_a_reentrant_checkpoint_around_a_chunk():
    assert_close(_run("reentrant"), _run("plain"))


@pytest.mark.parametrize("ended", [False, True])  # True: nothing is saved for the scalar
@pytest.mark.usefixtures("as_installed")
def test_any_other_checkpoint_around_a_chunk_is_refused(ended):
    with pytest.raises(LockingError, match=r"backward pass of a chunk .*use_reentrant=True"):
        _run("not reentrant", ended=ended)


def test_a_checkpoint_between_begin_and_the_scalar():
    core = CORES["GRUCell"]().double()
    it = bridge(core)
    assert_close(*by_each(core, it, core, partial(checkpoint, core, use_reentrant=False)))
