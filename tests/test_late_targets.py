"""Errors that come late, small batches, receivers in place, time-major messages, states."""

import copy
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import synthgrad as sg
from synthgrad.errors import ArgumentError, ContextError, LockingError, ShapeError
from synthgrad.feedback import MLP, Conv, Linear, Stale
from tests.networks import gradients


def _change(how, model):
    if how == "optimiser":
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    elif how == "in place":
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1)
    else:
        model.load_state_dict({k: v + 0.1 for k, v in model.state_dict().items()})


def _mlp():
    model = MLP(5, (8,), batch_norm=False).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


@pytest.mark.parametrize("how", ["optimiser", "in place", "loading"])
@pytest.mark.parametrize("context", [0, 3])
def test_a_late_target_fits_what_the_model_would_say_now(how, context):
    model = _mlp() if not context else Linear(5, context=3).double()
    labels = torch.tensor([0, 1, 2, 0]) if context else None
    interface = sg.Interface(model)
    h, delta = torch.randn(4, 5).double(), torch.randn(4, 5).double()
    early, _ = interface.send(torch.randn(4, 5).double(), labels)
    late, _ = interface.send(h, labels)
    early.backward(torch.randn(4, 5).double())
    _change(how, model)
    model.zero_grad()
    late.backward(delta)
    found = gradients(model)
    model.zero_grad()
    model.loss(h, 4 * delta, labels).backward()
    assert_close(found, gradients(model))


def test_inline_a_model_changed_in_between_is_named():
    interface = sg.Interface(_mlp(), name="it")
    h = torch.randn(4, 5).double().requires_grad_()
    received = interface(h)
    _change("in place", interface.feedback)
    with pytest.raises(LockingError, match=r"interface 'it': its feedback model was updated"):
        received.sum().backward()


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_a_batch_of_one_trains(rows, kind):
    shape = (rows, 6) if kind == "mlp" else (rows, 6, 1, 1)
    model = MLP(6, (4, 4)) if kind == "mlp" else Conv(6, (4,), 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    interface = sg.Interface(model)
    statistics = {n: b.clone() for n, b in model.named_buffers()}
    for _ in range(3):
        optimizer.zero_grad()
        interface(torch.randn(shape, requires_grad=True)).square().sum().backward()
        optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())
    same = all(torch.equal(b, statistics[n]) for n, b in model.named_buffers())
    assert same == (rows == 1)


@pytest.mark.parametrize("unlocked", [False, True])
def test_a_receiver_in_place_is_named(unlocked):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    sg.decouple(model, "0", "linear")
    schedule = sg.Unlocked(model, lambda p: torch.optim.SGD(p, lr=0.1))

    def train(x):
        if unlocked:
            schedule.step(x, lambda out: out.sum())
        else:
            model(x).sum().backward()

    with pytest.raises(LockingError, match=r"interface '0': its receiver has changed the message"):
        train(torch.randn(6, 4))


def test_a_checkpointed_part_knows_its_context_still():
    inside: Any = nn.Sequential(
        nn.Linear(4, 4), sg.Interface(Linear(4, context=3)), nn.Linear(4, 3)
    )
    nn.init.normal_(inside[1].feedback.first.context_weight)
    x, labels = torch.randn(6, 4, requires_grad=True), torch.randint(3, (6,))
    with sg.context(labels):
        inside(x).sum().backward()
    expected = gradients(inside)
    inside.zero_grad()
    with sg.context(labels):
        loss = checkpoint(inside, x, use_reentrant=False).sum()
    loss.backward()
    assert_close(gradients(inside), expected)


def test_a_recomputation_that_may_have_had_several_contexts_is_named():
    inside = nn.Sequential(nn.Linear(4, 4), sg.Interface(Linear(4, context=3), name="it"))
    losses = []
    for _ in range(2):
        with sg.context(torch.randint(3, (6,))):
            x = torch.randn(6, 4, requires_grad=True)
            losses.append(checkpoint(inside, x, use_reentrant=False).sum())
    with pytest.raises(ContextError, match=r"interface 'it'.*different contexts"):
        losses[0].backward()


def test_a_context_forgotten_outside_of_a_backward_pass_is_not_guessed():
    interface = sg.Interface(Linear(4, context=3))
    with sg.context(torch.randint(3, (6,))):
        kept = interface(torch.randn(6, 4, requires_grad=True))
    with pytest.raises(ContextError, match="got no context"):
        interface(torch.randn(6, 4, requires_grad=True))
    kept.sum().backward()


CONTEXTS: dict[str, Any] = {
    "no context": lambda time, batch: None,
    "a label an example": lambda time, batch: torch.arange(batch) % 3,
    "a label a position": lambda time, batch: torch.arange(time * batch).reshape(time, batch) % 3,
    "a row an example": lambda time, batch: torch.randn(batch, 3),
    "a row a position": lambda time, batch: torch.randn(time, batch, 3),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("time", "batch"), [(4, 6), (6, 6), (3, 6)])
@pytest.mark.parametrize("lambda_", [0.0, 0.5])
def test_time_major_is_batch_first_turned_over(context, time, batch, lambda_):
    c: Any = CONTEXTS[context](time, batch)
    first = sg.Interface(MLP(5, (4,), context=0 if c is None else 3, batch_norm=False), lambda_)
    with torch.no_grad():
        for p in first.parameters():
            p.normal_()
    major = copy.deepcopy(first)
    major.batch_dim = 1
    h = torch.randn(time, batch, 5, requires_grad=True)
    k = h.detach().transpose(0, 1).clone().requires_grad_()
    weight = torch.randn(time, batch, 5)
    (major(h, c) * weight).sum().backward()
    turned = cast(Any, c).transpose(0, 1) if "position" in context else c
    (first(k, turned) * weight.transpose(0, 1)).sum().backward()
    assert h.grad is not None
    assert k.grad is not None
    assert_close(h.grad, k.grad.transpose(0, 1))
    assert_close(gradients(major), gradients(first))


@pytest.mark.parametrize("schedule", [sg.Unlocked, sg.Sporadic])
def test_a_time_major_encoder_in_a_schedule_is_inline(schedule):
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0)
    model: Any = nn.Sequential(encoder, nn.Linear(6, 3))
    with pytest.raises(ArgumentError, match=r"interface '0'.*batch_first=False.*batch_dim=1"):
        sg.decouple(model, "0", "linear")
    sg.decouple(model, "0", "linear", batch_dim=1, example_inputs=torch.randn(4, 2, 6))
    nn.init.normal_(model[0].interface.feedback.first.weight)
    twin, x = copy.deepcopy(model), torch.randn(4, 5, 6)
    model(x).square().mean().backward()
    schedule(twin, lambda p: torch.optim.SGD(p, lr=0.0)).step(x, lambda out: out.square().mean())
    assert_close(gradients(twin), gradients(model))


def test_an_axis_that_the_message_has_not():
    with pytest.raises(ShapeError, match=r"batch_dim=2 is no axis of a message of shape \(4, 5\)"):
        sg.Interface(Linear(5), batch_dim=2)(torch.randn(4, 5))
    model = nn.Sequential(nn.Linear(4, 5))
    with pytest.raises(ShapeError, match=r"interface '0'.*batch_dim=3"):
        sg.decouple(model, "0", "linear", batch_dim=3, example_inputs=torch.randn(2, 4))


@pytest.mark.parametrize(
    ("context", "shape"),
    [
        (torch.tensor([0.0, 3.0, 1.0, 2.0]), (4, 6)),  # floats where class numbers are meant
        (torch.tensor([0.0, 3.0, 1.0, 2.0, 1.0]), (5, 6)),
        (torch.tensor([[0.0, 3.0, 1.0, 2.0]] * 5), (5, 4, 6)),
        (nn.functional.one_hot(torch.arange(5) % 4, 4), (5, 4, 6)),  # or labels of each step?
    ],
)
def test_what_may_be_labels_or_rows_is_refused(context, shape):
    with pytest.raises(ContextError, match=r"integer"):
        Linear(6, context=4)(torch.zeros(shape), context)


def test_labels_of_as_many_steps_as_classes_are_labels():
    model: Any = Linear(6, context=4)
    nn.init.normal_(model.first.context_weight)
    labels = torch.tensor([[0, 3, 1, 2], [2, 2, 0, 1]])
    found = model(torch.zeros(2, 4, 6), labels) - model.first.bias
    assert_close(found, model.first.context_weight[labels])


STATES = {
    "interface": lambda: sg.decouple(nn.Sequential(nn.Linear(4, 8)), "0", "linear"),
    "stale": lambda: nn.Sequential(sg.Interface(Stale(0.5))),
    "bridge": lambda: sg.RecurrentInterface(Linear(4, out_features=8)),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_state_dict_holds_tensors_only(kind):
    module = STATES[kind]()
    state = module.state_dict()
    assert state
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    module.load_state_dict({k: (2 * v.double() / 2).to(v.dtype) for k, v in state.items()})
    module.load_state_dict({k: v.double() for k, v in state.items()})  # as an average is


def test_a_step_saved_by_0_1_still_loads():
    model = STATES["interface"]()
    state = dict(model.state_dict())
    state["0.interface._extra_state"] = {"step": 7}
    model.load_state_dict(state)
    assert model[0].interface.step == 7
    assert model.state_dict()["0.interface._extra_state"] == 7


def test_a_bridge_saved_by_0_1_still_loads_and_an_average_of_two_begins_afresh():
    bridge = sg.RecurrentInterface(Linear(4, out_features=4))
    bridge.end(bridge.begin(torch.zeros(3, 4)), torch.ones(3, 4))
    other = copy.deepcopy(bridge)
    other.set_extra_state(bridge.carried_state())  # what 0.1 saved
    kept = other.carried_state()["pending"]
    assert torch.equal(kept["messages"], torch.ones(1, 3, 4))
    bridge.end(bridge.begin(torch.zeros(3, 4)), torch.zeros(3, 4))
    both = [m.get_extra_state().double() for m in (bridge, other)]
    with pytest.warns(sg.errors.SynthgradWarning, match="average"):
        other.set_extra_state((both[0] + both[1]) / 2)
    assert other.carried_state()["pending"] is None
