"""A run that is stopped between two chunks, saved and resumed goes on bit for bit."""

import copy
import io

import pytest
import torch
from torch.testing import assert_close

import synthgrad as sg
from synthgrad._extra_state import unpacked
from synthgrad._nest import floating, with_floating
from synthgrad.feedback import MLP, Linear, Stale
from tests.recurrent.cores import CORES, UNITS, Core, awake, stream, unroll

KINDS = ["LSTM", "nested"]


class _Run:
    """A core, its bridge and an optimiser on a stream; everything on."""

    def __init__(self, kind: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.core: Core = CORES[kind]().double()
        width = self.core.width()
        self.it = sg.RecurrentInterface(
            awake(MLP(UNITS, (6,), context=2, out_features=width).double()),
            auxiliary=awake(Linear(UNITS, out_features=width).double()),
            last_core=self.core.message,
            feedback_into_core=True,
        )
        parameters = [*self.core.parameters(), *self.it.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=0.01)
        self.state = self.core.initial(4)

    def chunk(self, number: int) -> None:
        torch.manual_seed(number)
        xs, ys = stream(2, 4)
        ended = torch.rand(4) < 0.3
        state = self.it.begin(self.state, ended=torch.rand(4) < 0.3, fresh=0)
        loss, state, messages, before = unroll(self.core, xs, ys, state)
        loss = loss + self.it.end(
            state,
            messages[-1],
            steps=messages,
            inputs=(xs[-1], before),
            ended=ended,
            context=torch.arange(4) % 2,
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.state = with_floating(state, [t.detach() for t in floating(state)])

    def parts(self) -> dict:
        return {"core": self.core, "it": self.it, "optimizer": self.optimizer}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_resumed_run_goes_on_bit_for_bit(kind, stop):
    run = _Run(kind, seed=0)
    for number in range(stop):
        run.chunk(number)
    file = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in run.parts().items()}, file)
    state = copy.deepcopy(run.state)

    file.seek(0)
    other = _Run(kind, seed=1)
    for name, saved in torch.load(file, weights_only=kind != "nested").items():
        other.parts()[name].load_state_dict(saved)
    other.state = state
    for number in range(stop, stop + 3):
        run.chunk(number)
        other.chunk(number)
    for ours, theirs in zip(
        [*run.core.parameters(), *run.it.parameters(), *run.it.buffers()],
        [*other.core.parameters(), *other.it.parameters(), *other.it.buffers()],
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    for name, count in run.it.explained.items():
        assert_close(count.total, other.it.explained[name].total, rtol=0, atol=0)


def test_loading_replaces_what_was_pending():
    run, fresh = _Run("LSTM", 0), _Run("LSTM", 0)
    saved = copy.deepcopy(fresh.it.state_dict())
    run.chunk(0)
    run.it.load_state_dict(saved)
    assert run.it.carried_state()["pending"] is None


def test_loading_gives_up_an_open_chunk():
    run = _Run("LSTM", 0)
    run.chunk(0)
    saved = copy.deepcopy(run.it.state_dict())
    run.it.begin(run.state)
    run.it.load_state_dict(saved)
    run.chunk(1)


def test_what_was_pending_goes_where_the_model_is():
    it = sg.RecurrentInterface(Stale(0.5))  # without parameters
    it.end(it.begin(torch.zeros(4, UNITS)), torch.zeros(4, UNITS))
    other = sg.RecurrentInterface(Stale(0.5)).to("meta")
    other.set_extra_state(it.get_extra_state())
    assert other.carried_state()["pending"]["messages"].is_meta


def test_a_saved_state_does_not_change_as_the_run_goes_on():
    run = _Run("LSTM", 0)
    run.chunk(0)
    saved = unpacked(run.it.state_dict()["_extra_state"])["pending"]["messages"]
    before = saved.clone()
    run.chunk(1)
    assert torch.equal(saved, before)
    run.it.load_state_dict(run.it.state_dict())
    kept = run.it.state_dict()
    run.chunk(2)
    run.it.load_state_dict(kept)
    loaded = kept["_extra_state"].clone()
    run.chunk(3)
    assert torch.equal(kept["_extra_state"], loaded)


def test_a_copy_between_chunks_goes_on_by_itself():
    run = _Run("LSTM", 0)
    run.chunk(0)
    copied = copy.deepcopy(run)
    run.chunk(1)
    assert not torch.equal(run.core.out.weight, copied.core.out.weight)
    copied.chunk(1)
    for ours, theirs in zip(run.core.parameters(), copied.core.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_pending_is_cast_with_the_parameters():
    run = _Run("LSTM", 0)
    run.chunk(0)
    run.it.float()
    pending = run.it.carried_state()["pending"]
    assert pending["messages"].dtype == torch.float32
    assert pending["context"].dtype == torch.int64
    assert {t.dtype for t in floating(pending["inputs"])} == {torch.float32}
