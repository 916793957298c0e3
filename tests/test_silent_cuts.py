"""Cuts that do nothing, or nothing right: said by the first optimiser step, with what to do."""

import copy
import pickle
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import synthgrad as sg
from synthgrad.errors import ArgumentError, LockingError, SynthgradWarning
from synthgrad.feedback import Linear
from tests.ranks import group

SGD = partial(torch.optim.SGD, lr=0.1)
X, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def _model() -> Any:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return sg.decouple(model, "1", "linear", context=3)


def _backward(model, x=X):
    with sg.context(Y):
        F.cross_entropy(model(x), Y).backward()


class _Reads(nn.Module):
    """Uses a submodule's parameters, or what it does, without calling it."""

    def __init__(self, cut: nn.Module, how) -> None:
        super().__init__()
        self.first, self.cut, self.how = nn.Linear(4, 4), cut, how

    def forward(self, x):
        return self.how(self.cut, self.first(x))


BYPASSED = {
    "its weight": (nn.Linear(4, 3), lambda cut, h: F.linear(h, cut.weight, cut.bias)),
    "its forward": (nn.Linear(4, 3), lambda cut, h: cut.forward(h)),
    "what it does": (nn.ReLU(), lambda cut, h: h.relu()),
}


@pytest.mark.parametrize("how", BYPASSED)
def test_a_cut_that_never_runs_is_named_before_anything_changes(how):
    model = _Reads(*copy.deepcopy(BYPASSED[how]))
    sg.decouple(model, "cut", "linear")
    before = copy.deepcopy(dict(model.named_parameters()))
    model(X).square().sum().backward()
    with pytest.raises(LockingError, match=r"interface 'cut': it did not run"):
        SGD(model.parameters()).step()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_branch_that_is_not_taken_is_no_mistake():
    class Branches(nn.Module):
        goes: Any = "left"

        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return getattr(self, self.goes)(x)

    model: Any = sg.decouple(Branches(), ["left", "right"], "linear")
    optimizer = SGD(model.parameters())
    for goes in ("left", "left", "right", "left"):
        model.goes = goes
        optimizer.zero_grad()
        model(X).sum().backward()
        optimizer.step()


def test_a_cut_that_is_passed_by_later_on_is_named_too():
    model = _Reads(nn.Linear(4, 3), lambda cut, h: cut(h))
    sg.decouple(model, "cut", "linear")
    optimizer = SGD(model.parameters())
    model(X).sum().backward()
    optimizer.step()
    model.how = lambda cut, h: cut.forward(h)
    optimizer.zero_grad()
    model(X).sum().backward()
    with pytest.raises(LockingError, match="interface 'cut': it did not run"):
        optimizer.step()


@pytest.mark.parametrize("part", ["", "1"])
def test_an_interface_in_eval_mode_while_the_model_learns(part):
    model = _model()
    model.get_submodule(part).eval()
    _backward(model)
    optimizer = SGD(model.parameters())
    with pytest.raises(LockingError, match=r"interface '1': it is in eval mode"):
        optimizer.step()
    model.train()
    optimizer.zero_grad()
    _backward(model)
    optimizer.step()


def test_an_evaluation_with_gradients_before_a_training_step_is_no_mistake():
    model = _model()
    optimizer = SGD(model.parameters())
    for _ in range(2):
        model.eval()
        model(X)
        model.train()
        _backward(model)
        optimizer.step()


def test_a_frozen_feedback_model_is_said_once():
    model = _model()
    model[1].interface.feedback.requires_grad_(False)
    optimizer = SGD(model.parameters())
    _backward(model)
    with pytest.warns(SynthgradWarning, match=r"interface '1': its feedback model is frozen"):
        optimizer.step()
    _backward(model)
    optimizer.step()


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_feedback_model_that_no_optimiser_has_is_said(recurrent):
    if recurrent:
        cell, bridge = nn.RNNCell(4, 5), sg.RecurrentInterface(Linear(5), name="bridge")
        state = torch.zeros(6, 5)
        for _ in range(2):
            state = bridge.begin(state)
            state = cell(X, state)
            (state.square().sum() + bridge.end(state, state)).backward()
        owner, what = cell, "recurrent interface 'bridge'"
    else:
        owner = _model()
        _backward(owner)
        what = "interface '1'"
    parameters = list(owner.parameters()) if recurrent else sg.network_parameters(owner)
    with pytest.warns(SynthgradWarning, match=rf"{what}: no optimiser.*feedback_parameters"):
        SGD(parameters).step()


def test_optimisers_of_their_own_are_found():
    model = _model()
    network = SGD(sg.network_parameters(model))
    feedback = SGD(sg.feedback_parameters(model))
    for _ in range(2):
        _backward(model)
        network.step()
        feedback.step()


def test_a_model_that_is_only_looked_at_disturbs_nobody():
    looked_at, trained = _model(), _model()
    _backward(looked_at)
    _backward(trained)
    SGD(trained.parameters()).step()


def test_the_parameters_of_network_and_feedback_models_are_all_and_apart():
    model = _model()
    network, feedback = sg.network_parameters(model), sg.feedback_parameters(model)
    plain = sg.recouple(copy.deepcopy(model))
    assert [p.shape for p in network] == [p.shape for p in plain.parameters()]
    assert {id(p) for p in network}.isdisjoint(id(p) for p in feedback)
    assert {id(p) for p in (*network, *feedback)} == {id(p) for p in model.parameters()}


@pytest.mark.usefixtures("as_installed")
def test_parameters_of_what_is_no_module():
    with pytest.raises(ArgumentError, match="Module"):
        sg.network_parameters([1])  # type: ignore[arg-type]


PROGRAM = """
import pickle, sys, torch
model = pickle.loads(sys.stdin.buffer.read())
model(torch.randn(6, 4))  # nothing comes of it
model[2].bias.sum().backward()
try:
    torch.optim.SGD(model.parameters(), lr=0.1).step()
except RuntimeError as error:
    print(error)
"""


def test_a_whole_model_keeps_its_guards_in_another_process():
    model: Any = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    sg.decouple(model, "0", "linear")
    model[0].interface.step = 3
    data = pickle.dumps(model)
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=60)
    assert "interface '0': no gradient reached it" in done.stdout.decode()
    assert pickle.loads(data)[0].interface.step == 3


def test_a_wrapper_first_and_interfaces_afterwards_are_refused(tmp_path):
    with group(tmp_path):
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        wrapped = DistributedDataParallel(model)
        with pytest.raises(LockingError, match=r"decouple\(\) first"):
            sg.decouple(wrapped, "module.0", "linear")
        with pytest.raises(LockingError, match=r"decouple\(\) first"):
            sg.decouple(model, "0", "linear")
        with pytest.raises(LockingError, match=r"decouple\(\) first"):
            sg.decouple(nn.Sequential(wrapped, nn.Linear(3, 3)), "1", "linear")
        del wrapped


def test_a_sharded_model_is_refused_too(tmp_path):
    from torch.distributed.fsdp import fully_shard

    with group(tmp_path):
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        mesh = init_device_mesh("cpu", (1,))
        fully_shard(model, mesh=mesh)
        with pytest.raises(LockingError, match=r"FSDP.* decouple\(\) first"):
            sg.decouple(model, "0", "linear")


@pytest.mark.parametrize("schedule", [sg.Unlocked, sg.Sporadic])
def test_a_schedule_over_a_wrapper_is_refused(schedule, tmp_path):
    with group(tmp_path):
        wrapped = DistributedDataParallel(_model())
        with pytest.raises(LockingError, match="ranks would drift apart"):
            schedule(wrapped, SGD).step(X, lambda out: F.cross_entropy(out, Y), context=Y)
        del wrapped
