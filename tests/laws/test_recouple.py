"""Cutting a model and joining it again is no change; a cut model is still the same function."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import MLP, Critic, Linear, Stale
from tests.networks import Residual, Value, awake, backward, chain, gradients, hidden, squares


def _net():
    return nn.Sequential(
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU()), Residual(5), nn.Linear(5, 2)
    ).double()


def _saved(model):
    """The model after a round trip through a file."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _cut(model, feedback="linear"):
    # "0" is a Sequential, "1" a module with a forward of its own, "0.0" a layer deep inside.
    x = torch.randn(3, 4).double()
    return sg.decouple(model, ["0", "1", "0.0"], feedback, example_inputs=x)


copies = pytest.mark.parametrize(
    "copied",
    [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), _saved],
    ids=["itself", "deepcopy", "pickle", "torch.save"],
)


@copies
def test_is_the_model_itself_with_its_keys_and_its_outputs(copied):
    plain, x = _net().eval(), torch.randn(6, 4).double()
    cut = copied(_cut(copy.deepcopy(plain)))
    assert set(plain.state_dict()) < set(cut.state_dict())
    assert torch.equal(cut(x), plain(x))
    joined = sg.recouple(cut)
    assert joined is cut
    assert list(joined.state_dict()) == list(plain.state_dict())
    assert repr(joined) == repr(plain)
    assert torch.equal(joined(x), plain(x))
    assert not any(module._forward_hooks for module in joined.modules())


@copies
def test_after_training_the_trained_weights_come_back(copied):
    cut = awake(_cut(_net()))
    optimizer = torch.optim.SGD(cut.parameters(), lr=0.1)
    x, y = torch.randn(6, 4).double(), torch.randn(6, 2).double()
    start = copy.deepcopy(cut.state_dict())
    backward(cut, x, squares(y))
    optimizer.step()
    trained = {name: p.clone() for name, p in cut.named_parameters() if "interface" not in name}
    joined = sg.recouple(copied(cut))
    assert_close(dict(joined.named_parameters()), trained, rtol=0, atol=0)
    assert not any(torch.equal(start[name], p) for name, p in trained.items())
    plain = _net()
    plain.load_state_dict(joined.state_dict())  # strict: no key more, no key less
    assert torch.equal(plain.eval()(x), joined.eval()(x))
    backward(joined.train(), x, squares(y))
    backward(plain.train(), x, squares(y))
    assert_close(gradients(joined), gradients(plain), rtol=0, atol=0)


@copies
@pytest.mark.parametrize(
    "feedback",
    [lambda h: Linear(5), lambda h: MLP(5, (3,)), lambda h: Stale(0.9), lambda h: Critic(Value(5))],
    ids=["linear", "mlp", "stale", "critic"],
)
def test_a_copy_of_a_cut_model_trains_alike_and_apart(copied, feedback):
    cut = awake(_cut(_net(), feedback))
    twin = copied(copy.deepcopy(cut))
    batches = [(torch.randn(6, 4).double(), torch.randn(6, 2).double()) for _ in range(2)]
    for x, y in batches:
        backward(cut, x, squares(y))
    trained = copy.deepcopy(cut.state_dict())
    for x, y in batches:
        backward(twin, x, squares(y))
    assert_close(gradients(twin), gradients(cut), rtol=0, atol=0)
    assert_close(twin.state_dict(), cut.state_dict(), rtol=0, atol=0)
    assert_close(cut.state_dict(), trained, rtol=0, atol=0)  # the twin has a state of its own


@given(st.lists(st.integers(1, 5), min_size=3, max_size=5), st.integers(0, 2**16))
def test_a_cut_model_is_the_same_function_in_either_mode(sizes, seed):
    torch.manual_seed(seed)
    plain, x = chain(sizes), torch.randn(3, sizes[0]).double()
    cut = awake(sg.decouple(copy.deepcopy(plain), hidden(plain), "linear"))
    assert torch.equal(cut(x), plain(x))
    assert torch.equal(cut.eval()(x), plain(x))


def test_an_interface_placed_by_hand_stays():
    model = nn.Sequential(nn.Linear(2, 2), sg.Interface(Linear(2)), nn.Linear(2, 2))
    sg.recouple(sg.decouple(model, "0", "linear"))
    assert [type(m) for m in model] == [nn.Linear, sg.Interface, nn.Linear]
