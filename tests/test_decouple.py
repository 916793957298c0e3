import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.feedback import MLP, Conv, Linear, Zero
from tests.networks import Residual, awake, backward, gradients, interfaces, squares


def _x(*shape: int) -> torch.Tensor:
    return torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))


def _names(model):
    return [interface.name for interface in interfaces(model)]


def _kinds(model):
    return [type(interface.feedback) for interface in interfaces(model)]


def _learns(model, x, context=None):
    """Whether every parameter gets a gradient that is not zero."""
    target = torch.zeros_like(model.eval()(x))
    backward(awake(model.train()), x, squares(target), context)
    found = gradients(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    return all(g.any() for g in found.values())


def test_it_cuts_in_place_behind_what_is_named():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    assert sg.decouple(model, "1", "linear") is model
    assert _names(model) == ["1"]
    h = torch.randn(3, 4)
    seen = []
    interfaces(model)[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(h)
    assert torch.equal(seen[0], model[0](h).tanh())


def test_a_residual_network_by_nested_names():
    body = nn.Sequential(nn.Linear(4, 6), Residual(6), Residual(6))
    model = nn.Sequential(body, nn.Linear(6, 2))
    cuts = ["0.1", "0.2", "0.1.linear"]
    sg.decouple(model, cuts, lambda h: MLP(6, (5,)), example_inputs=_x(4))
    assert set(_names(model)) == set(cuts)
    assert "0.1.interface.feedback.first.weight" in model.state_dict()
    assert _learns(model, _x(4))


def test_a_transformer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    model = nn.TransformerEncoder(layer, 3)
    sg.decouple(model, ["layers.0", "layers.1"], "linear", context=5, example_inputs=_x(3, 8))
    assert _kinds(model) == [Linear, Linear]
    assert _learns(model, _x(3, 8), torch.arange(6) % 5)
    padded = model.eval()(_x(3, 8), src_key_padding_mask=torch.zeros(6, 3).bool())
    assert_close(padded, model(_x(3, 8)))


def test_a_sequential_is_cut_behind_its_last_child():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 2))
    plain = copy.deepcopy(model)
    sg.decouple(model, "0", "mlp")
    assert [name for name, _ in model[0].named_children()] == ["0", "1", "interface"]
    assert torch.equal(model(_x(4)), plain(_x(4)))
    assert _kinds(model) == [MLP]


def test_a_function_makes_a_feedback_model_for_each_message():
    seen = []

    def make(message):
        seen.append(message.shape)
        return Linear(message.shape[1])

    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2))
    sg.decouple(model, ["0", "1"], make, example_inputs=_x(4))
    assert seen == [(6, 5), (6, 6)]
    assert _learns(model, _x(4))


@pytest.mark.parametrize(
    ("layers", "at", "feedback", "x"),
    [
        ([nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 2)], "2", "linear", (4,)),
        ([nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)], "1", "mlp", (4,)),
        ([nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)], "1", "linear", (3, 4)),
        ([nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)], "1", "conv", (1, 6, 6)),
        ([nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)], "1", "conv", (1, 6, 6)),
        (
            [nn.Unflatten(1, (2, 3)), nn.Linear(3, 5), nn.Flatten(), nn.Linear(10, 2)],
            "1",
            "mlp",
            (6,),
        ),
    ],
)
def test_sizes_are_read_off_the_layers_where_they_tell(layers, at, feedback, x):
    model = nn.Sequential(*layers)
    sg.decouple(model, at, feedback, context=3)
    message = _x(*x).long() if isinstance(layers[0], nn.Embedding) else _x(*x)
    with sg.context(torch.zeros(6, dtype=torch.long)):
        model(message.abs()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "example",
    [(_x(4), _x(4)), {"a": _x(4), "b": _x(4)}, {"b": _x(4), "a": _x(4)}],
    ids=["positional", "named", "named otherwise"],
)
def test_the_example_may_be_several_arguments(example: Any):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 5)

        def forward(self, a, b):
            return self.inner(a + b)

    model = Sum()
    sg.decouple(model, "inner", lambda h: Linear(h.shape[1]), example_inputs=example)
    assert _kinds(model) == [Linear]


@pytest.mark.parametrize(
    "where", [{"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"device": "meta"}]
)
@pytest.mark.parametrize("with_example", [True, False])
def test_a_feedback_model_is_where_its_message_is_and_in_its_precision(where, with_example):
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)).to(**where)
    example = torch.ones(6, 4, **where) if with_example else None
    sg.decouple(model, "0", "linear", example_inputs=example)
    expected = model[1].weight
    for parameter in interfaces(model)[0].parameters():
        assert (parameter.device, parameter.dtype) == (expected.device, expected.dtype)


@pytest.mark.parametrize("training", [True, False])
def test_the_pass_with_the_example_leaves_no_trace(training):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)).train(training)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    sg.decouple(model, ["0", "1"], lambda h: Zero(), example_inputs=_x(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training == training
    found = {name: value for name, value in model.state_dict().items() if name in before}
    assert_close(found, before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    assert [interface.step for interface in interfaces(model)] == [0, 0]


def test_options_reach_every_interface():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    sg.decouple(model, ["0", "1"], "linear", lambda_=0.25, reduction="sum")
    assert [(i.lambda_, i.reduction) for i in interfaces(model)] == [(0.25, "sum")] * 2
    assert isinstance(sg.decouple(nn.Sequential(nn.Conv2d(1, 3, 1)), "0", "conv"), nn.Sequential)


def test_the_paper_s_sizes_are_the_default():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 7))
    sg.decouple(model, "0", "conv")
    sg.decouple(model, "2", "mlp")
    conv, mlp = (interface.feedback for interface in interfaces(model))
    assert isinstance(conv, Conv)
    assert [m.weight.shape for m in conv.modules() if isinstance(m, nn.Conv2d)] == [
        (64, 3, 5, 5),
        (64, 64, 5, 5),
        (3, 64, 5, 5),
    ]
    shapes = [p.shape for p in mlp.parameters() if p.ndim == 2]
    assert shapes == [(1024, 7), (1024, 1024), (7, 1024)]
