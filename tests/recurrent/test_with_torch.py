"""The bridge in the company of what torch itself does to forward and backward passes."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

import synthgrad as sg
from synthgrad._nest import floating
from synthgrad.feedback import MLP, Linear
from synthgrad.lab.experiments.lstm import has_bfloat16_lstm
from tests.ranks import group
from tests.recurrent.cores import (
    CORES,
    UNITS,
    awake,
    bridge,
    by_each,
    every,
    gradients,
    stream,
    unroll,
)


def _everything(core, dtype=torch.float64, **options) -> Any:
    """Both regressions, both into the core."""
    width = core.width()
    return sg.RecurrentInterface(
        awake(MLP(UNITS, (6,), out_features=width, batch_norm=False).to(dtype)),
        auxiliary=awake(Linear(UNITS, out_features=width).to(dtype)),
        last_core=core.message,
        feedback_into_core=True,
        batch_dim=core.batch_dim,
        **options,
    )


def _loss(core, it, state, xs, ys):
    loss, state, messages, before = unroll(core, xs, ys, it.begin(state))
    inputs = (xs[-1], before)
    return loss + it.end(state, messages[-1], steps=messages, inputs=inputs), state


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_precision(kind, dtype):
    core = CORES[kind]().to(dtype)
    it = _everything(core, dtype)
    state = core.initial(5)
    for _ in range(2):
        loss, state = _loss(core, it, state, *stream(2, 5, dtype))
        loss.backward()
    for parameter in [*core.parameters(), *it.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
    counted = it.explained["boundary"].last
    assert counted.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("kind", ["LSTM", "GRUCell", "nested"])
def test_autocast(kind):
    core = CORES[kind]()
    it = _everything(core, torch.float32)
    chunks = [stream(2, 16, torch.float32) for _ in range(2)]

    def run(enabled):
        core.zero_grad()
        it.zero_grad()
        it.reset()
        state = core.initial(16)
        for xs, ys in chunks:
            with (
                torch.autocast("cpu", torch.bfloat16, enabled=enabled),
                # On some processors only PyTorch's own LSTM takes bfloat16, not oneDNN's.
                torch.backends.mkldnn.flags(enabled=has_bfloat16_lstm("cpu")),
            ):
                loss, state = _loss(core, it, state, xs, ys)
            loss.backward()
        return gradients(core, it)

    expected = run(False)
    for name, g in run(True).items():
        assert g.dtype == torch.float32
        assert (g - expected[name]).norm() < 0.1 * expected[name].norm() + 1e-2


def test_the_model_is_fitted_where_autocast_is_on_around_the_whole_loop():
    # Old releases of torch keep the weights that were cast for a prediction without a graph.
    core = CORES["GRUCell"]()
    it, state = bridge(core), core.initial(5)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            it.zero_grad()
            loss, state, messages, _ = unroll(core, *stream(2, 5, torch.float32), it.begin(state))
            (loss + it.end(state, messages[-1])).backward()
    assert all(p.grad is not None and p.grad.any() for p in it.parameters())


def test_a_feedback_model_in_a_precision_of_its_own():
    core = CORES["LSTM"]().bfloat16()
    it = _everything(core, torch.float32)
    state = core.initial(5)
    for _ in range(2):
        loss, state = _loss(core, it, state, *stream(2, 5, torch.bfloat16))
        loss.backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in it.parameters())


def test_gradients_add_up_over_chunks():
    core = CORES["LSTM"]().double()
    it = _everything(core)
    state, apart = core.initial(4), []
    chunks = [stream(2, 4) for _ in range(3)]
    for xs, ys in chunks:
        core.zero_grad()
        it.zero_grad()
        loss, state = _loss(core, it, state, xs, ys)
        loss.backward()
        apart.append(gradients(core, it))
    it.reset()
    core.zero_grad()
    it.zero_grad()
    state = core.initial(4)
    for xs, ys in chunks:
        loss, state = _loss(core, it, state, xs, ys)
        loss.backward()
    assert_close(gradients(core, it), {name: sum(g[name] for g in apart) for name in apart[0]})


def test_autograd_grad_finds_what_backward_finds():
    core = CORES["LSTM"]().double()
    it = _everything(core)
    parameters = [*core.parameters(), *it.parameters()]
    _, state = _loss(core, it, core.initial(4), *stream(2, 4))
    loss, _ = _loss(core, it, state, *stream(2, 4))
    found = torch.autograd.grad(loss, parameters, retain_graph=True)
    loss.backward()
    assert_close([p.grad for p in parameters], list(found))


def test_a_graph_may_be_walked_twice():
    core = CORES["LSTM"]().double()
    it = _everything(core)
    _, state = _loss(core, it, core.initial(4), *stream(2, 4))
    loss, _ = _loss(core, it, state, *stream(2, 4))
    loss.backward(retain_graph=True)
    once = gradients(core, it)
    loss.backward()
    assert_close(gradients(core, it), {name: 2 * g for name, g in once.items()})


def test_hooks_see_the_gradients_of_the_feedback_model():
    core = CORES["LSTM"]().double()
    it = bridge(core)
    seen = []
    it.feedback.first.bias.register_hook(seen.append)
    state = core.initial(4)
    for _ in range(2):
        loss, state, messages, _ = unroll(core, *stream(2, 4), it.begin(state))
        (loss + it.end(state, messages[-1])).backward()
    assert_close(seen, [it.feedback.first.bias.grad])


class _Chunk(nn.Module):
    """A whole chunk as one forward pass, as data-parallel wrappers want it."""

    def __init__(self, core, it):
        super().__init__()
        self.core, self.it = core, it

    def forward(self, state, xs, ys):
        return _loss(self.core, self.it, state, xs, ys)


def test_distributed_data_parallel(tmp_path):
    core = CORES["LSTM"]().double()
    it = _everything(core)
    chunks = [stream(2, 4) for _ in range(3)]

    def trained(model):
        it.reset()
        model.zero_grad()
        state = core.initial(4)
        for xs, ys in chunks:
            loss, state = model(state, xs, ys)
            loss.backward()
        return gradients(core, it)

    with group(tmp_path):
        # In a stream's first chunk there is nothing yet that M could be fitted to.
        found = trained(DistributedDataParallel(_Chunk(core, it), find_unused_parameters=True))
    assert_close(found, trained(_Chunk(core, it)))


def test_a_functional_optimiser_step_between_chunks_does_not_upset_what_is_kept():
    core = CORES["LSTM"]().double()
    it = _everything(core)
    optimizer = torch.optim.Adam([*core.parameters(), *it.parameters()], lr=0.1)
    state = core.initial(4)
    for _ in range(3):
        loss, state = _loss(core, it, state, *stream(2, 4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # in place, on everything that the last chunk was computed with
    assert all(p.isfinite().all() for p in it.parameters())


@pytest.mark.parametrize("how", ["eval", "no_grad"])
def test_evaluation_leaves_what_is_pending_alone(how):
    core = CORES["LSTM"]().double()
    it = bridge(core)
    _, state, messages, _ = unroll(core, *stream(2, 4), it.begin(core.initial(4)))
    it.end(state, messages[-1])
    before = it.carried_state()["pending"]["messages"]
    it.train(how != "eval")
    with torch.set_grad_enabled(how != "no_grad"):
        other = it.begin(core.initial(7))
        assert not any(t.requires_grad for t in floating(other))
        _, other, messages, _ = unroll(core, *stream(2, 7), other)
        assert it.between(other, messages[-1], 0.5) is other
        assert torch.equal(it.end(other, messages[-1]), torch.zeros(()).double())
    it.train()
    assert torch.equal(it.carried_state()["pending"]["messages"], before)
    it.begin(state)


def test_a_context_reaches_a_conditional_model_and_waits_with_its_message():
    core = CORES["GRUCell"]().double()
    it = bridge(core, awake(Linear(UNITS, context=3).double()))
    other = bridge(core, it.feedback)
    labels, later = torch.tensor([0, 2, 1, 1]), torch.tensor([1, 1, 0, 2])
    found = []
    for bridged, given in ((it, True), (other, False)):
        torch.manual_seed(0)
        core.zero_grad()
        it.zero_grad()
        state = core.initial(4)
        for context in (labels, later):
            loss, state, messages, _ = unroll(core, *stream(2, 4), bridged.begin(state))
            with sg.context(None if given else context):
                end = bridged.end(state, messages[-1], context=context if given else None)
            (loss + end).backward()
        found.append(gradients(core, it))
    assert_close(*found)
    # the second chunk's error was fitted with the first one's labels: class 2 was among them once
    weight = it.feedback.first.context_weight.grad
    assert weight[0].any()
    assert weight[2].any()


@pytest.mark.parametrize("backend", ["eager"])
@pytest.mark.usefixtures("as_installed")
def test_a_core_compiled_by_torch_is_a_core_like_any_other(backend):
    core = CORES["LSTMCell"]().double()
    it = bridge(core)
    assert_close(*by_each(core, it, core, torch.compile(core, backend=backend)))
