"""Whole chunks under ``torch.compile``, with all of it but the code generator."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import Linear
from tests.recurrent.cores import CORES, UNITS, awake, gradients, stream


def test_a_compiled_chunk_has_the_same_gradients():
    # In a process of its own: checked annotations would cut the graph to pieces here.
    program = "from tests.recurrent.test_compiled import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", program]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["plain", "auxiliary", "last_core"]


def main() -> None:
    for kind in ("plain", "auxiliary", "last_core"):
        assert_close(_gradients(kind, compiles=True), _gradients(kind, compiles=False))
        print(kind)


def _gradients(kind, *, compiles):
    torch.manual_seed(0)
    core = CORES["GRUCell"]().double()
    it = sg.RecurrentInterface(
        awake(Linear(UNITS).double()),
        auxiliary=awake(Linear(UNITS).double()) if kind == "auxiliary" else None,
        last_core=core.message if kind == "last_core" else None,
        feedback_into_core=kind == "last_core",
    )
    chunk = partial(_chunk, core, it)
    run = torch.compile(chunk, backend="aot_eager") if compiles else chunk
    state = core.initial(5)
    for _ in range(2):
        loss, state = run(*stream(1, 5), state)
        loss.backward()
        state = state.detach()
    return gradients(core, it)


def _chunk(core, it, xs, ys, state):
    before = it.begin(state)
    message, state = core(xs[0], before)
    steps = None if it.auxiliary is None else [message]
    inputs = None if it.last_core is None else (xs[0], before)
    return core.loss(message, ys[0]) + it.end(state, message, steps=steps, inputs=inputs), state
