"""Interfaces in the company of what torch itself does to forward and backward passes."""

import copy
import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import synthgrad as sg
from synthgrad.errors import LockingError
from synthgrad.feedback import MLP, Critic, Linear
from tests.networks import Value, awake, backward, chain, gradients, hidden, squares
from tests.ranks import group

FEEDBACK = {
    "linear": lambda h: Linear(h.shape[1], context=3),
    "mlp": lambda h: MLP(h.shape[1], (6,), context=3),
    "critic": lambda h: Critic(Value(h.shape[1], 3)),
}
every = pytest.mark.parametrize("kind", FEEDBACK)


def _model(kind, dtype=torch.float64, lambda_=0.5):
    model = chain([4, 5, 5, 2], dtype)
    x = torch.randn(2, 4, dtype=dtype)
    sg.decouple(model, hidden(model), FEEDBACK[kind], lambda_=lambda_, example_inputs=x)
    return awake(model)


def _batch(dtype=torch.float64):
    return (
        torch.randn(6, 4, dtype=dtype),
        squares(torch.randn(6, 2, dtype=dtype)),
        torch.arange(6) % 3,
    )


def _loss(model, x, loss_fn, y):
    with sg.context(y):
        return sg.losses(loss_fn(model(x))).mean()


@every
def test_autocast(kind):
    model = _model(kind, torch.float32)
    x, loss_fn, y = _batch(torch.float32)
    backward(model, x, loss_fn, y)
    expected = gradients(model)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = _loss(model, x, loss_fn, y)
    loss.backward()
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, g in expected.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - g).norm() < 0.1 * g.norm() + 1e-3


@every
def test_autocast_of_an_unlocked_step_the_first_too(kind):
    model = _model(kind, torch.float32, lambda_=0.0)
    twin, (x, loss_fn, y) = copy.deepcopy(model), _batch(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = _loss(model, x, loss_fn, y)
    loss.backward()
    with torch.autocast("cpu", torch.bfloat16):
        sg.Unlocked(twin, partial(torch.optim.SGD, lr=0.0)).step(x, loss_fn, y)
    found, expected = gradients(twin), gradients(model)
    assert found.keys() == expected.keys()
    for name, g in expected.items():
        assert (found[name] - g).norm() < 0.1 * g.norm() + 1e-3


@every
def test_gradients_add_up_over_backward_passes(kind):
    model, batches = _model(kind), [_batch() for _ in range(3)]
    apart = []
    for x, loss_fn, y in batches:
        backward(model, x, loss_fn, y)
        apart.append(gradients(model))
    model.zero_grad()
    for x, loss_fn, y in batches:
        _loss(model, x, loss_fn, y).backward()
    assert_close(gradients(model), {n: sum(g[n] for g in apart) for n in apart[0]})


@every
def test_a_graph_is_not_walked_twice_where_synthetic_errors_stand_for_the_whole(kind):
    model, (x, loss_fn, y) = _model(kind), _batch()
    loss = _loss(model, x, loss_fn, y)
    loss.backward(retain_graph=True)
    with pytest.raises(LockingError, match=r"interface '\d': a second backward pass"):
        loss.backward()


def test_with_the_real_error_alone_the_errors_of_two_passes_add_up():
    model, (x, loss_fn, y) = _model("linear", lambda_=1.0), _batch()

    def losses():
        with sg.context(y):
            output = model(x)
        return loss_fn(output).mean(), output.square().sum()

    first, second = losses()
    (first + second).backward()
    expected = gradients(model)
    model.zero_grad()
    first, second = losses()
    first.backward(retain_graph=True)
    second.backward()
    assert_close(gradients(model), expected)


@every
def test_autograd_grad_finds_what_backward_finds(kind):
    model, (x, loss_fn, y) = _model(kind), _batch()
    backward(model, x, loss_fn, y)
    expected = gradients(model)
    found = torch.autograd.grad(_loss(model, x, loss_fn, y), list(model.parameters()))
    assert_close(dict(zip(expected, found, strict=True)), expected)


# Not "mlp": running the forward pass again updates batch norm again, with torch as without.
@pytest.mark.parametrize(
    ("kind", "reentrant"), [("linear", True), ("linear", False), ("critic", False)]
)
def test_activation_checkpoints(kind, reentrant):
    model, (x, loss_fn, y) = _model(kind), _batch()
    backward(model, x, loss_fn, y)
    expected = gradients(model)
    model.zero_grad()
    with sg.context(y):  # the forward pass is run again in the backward pass, and needs it there
        output: Any = checkpoint(model, x.requires_grad_(), use_reentrant=reentrant)
        sg.losses(loss_fn(output)).mean().backward()
    assert_close(gradients(model), expected)


def test_a_reentrant_checkpoint_hides_the_losses_from_a_critic_which_says_so():
    model, (x, loss_fn, y) = _model("critic"), _batch()
    with sg.context(y):
        output: Any = checkpoint(model, x.requires_grad_(), use_reentrant=True)
        with pytest.raises(LockingError, match=r"interface '1': .*synthgrad\.losses"):
            sg.losses(loss_fn(output)).mean().backward()


@pytest.mark.usefixtures("as_installed")  # else the checks are compiled as well
@pytest.mark.parametrize("kind", ["linear", "critic"])
def test_compilation(kind):
    model, (x, loss_fn, y) = _model(kind), _batch()
    backward(model, x, loss_fn, y)
    expected = gradients(model)
    compiled: Any = torch.compile(model, backend="eager")
    backward(compiled, x, loss_fn, y)
    assert_close(gradients(model), expected)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_functional_call(kind):
    model, (x, loss_fn, y) = _model(kind), _batch()
    backward(model, x, loss_fn, y)
    expected = gradients(model)
    model.zero_grad()
    ours = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    _loss(lambda x: functional_call(model, ours, (x,)), x, loss_fn, y).backward()
    assert not gradients(model)
    assert_close({name: p.grad for name, p in ours.items()}, expected)


def test_a_functional_call_of_a_critic_is_refused_since_it_is_fitted_afterwards():
    model, (x, loss_fn, y) = _model("critic"), _batch()
    ours = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    loss = _loss(lambda x: functional_call(model, ours, (x,)), x, loss_fn, y)
    with pytest.raises(LockingError, match=r"interface '1': .*functional_call"):
        loss.backward()


@every
def test_threads_do_not_meet(kind):
    batches = [_batch() for _ in range(2)]
    models = [_model(kind) for _ in batches]
    expected = []
    for model, batch in zip(models, batches, strict=True):
        twin = copy.deepcopy(model)
        backward(twin, *batch)
        expected.append(gradients(twin))
    between = threading.Barrier(2)

    def work(model, x, loss_fn, y):
        with sg.context(y):
            between.wait(timeout=10)
            output = model(x)
            between.wait(timeout=10)
            sg.losses(loss_fn(output)).mean().backward()

    threads = [
        threading.Thread(target=work, args=(model, *batch))
        for model, batch in zip(models, batches, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_close([gradients(model) for model in models], expected)


@every
def test_distributed_data_parallel(kind, tmp_path):
    model, (x, loss_fn, y) = _model(kind), _batch()
    twin = copy.deepcopy(model)
    backward(model, x, loss_fn, y)
    with group(tmp_path):
        backward(DistributedDataParallel(twin), x, loss_fn, y)
    assert_close(gradients(twin), gradients(model))


def test_a_message_hook_sees_the_mixed_error_and_may_change_it():
    layer, interface, seen = nn.Linear(3, 3), sg.Interface(Linear(3), 1.0), []
    h = layer(torch.ones(2, 3))
    h.register_hook(lambda g: seen.append(g) or g * 0)
    interface(h).sum().backward()
    assert_close(seen, [torch.ones(2, 3)])
    assert_close(layer.weight.grad, torch.zeros(3, 3))
