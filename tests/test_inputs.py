from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ArgumentError, ContextError, ShapeError
from synthgrad.feedback import Linear
from synthgrad.inputs import SyntheticInput


@pytest.mark.parametrize("hidden", [(), (7,), (7, 6)])
@pytest.mark.parametrize("context", [0, 3])
def test_it_predicts_messages_from_inputs_of_any_shape(hidden, context):
    model = SyntheticInput(12, 5, hidden, context)
    x, y = torch.randn(4, 3, 2, 2), torch.randint(3, (4,)) if context else None
    predicted = model(x, y)
    assert predicted.shape == (4, 5)
    assert predicted.std() > 0  # unlike a synthetic gradient, it does not start at zero
    h = torch.randn(4, 5)
    assert_close(model.loss(x, h, y), (model(x, y) - h).square().sum() / 4)


def test_wrong_inputs_are_named():
    with pytest.raises(ShapeError, match=r"expects a batch of inputs of 12 values, got \(4, 11\)"):
        SyntheticInput(12, 5)(torch.randn(4, 11))
    with pytest.raises(ContextError):
        SyntheticInput(12, 5, context=3)(torch.randn(4, 12))
    with pytest.raises(ArgumentError, match="out_features must be an integer of at least 1"):
        SyntheticInput(12, 0)


def test_they_come_and_go_with_their_interface():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double()
    x = torch.randn(2, 4).double()
    sg.decouple(
        model, "0", "linear", example_inputs=x, inputs=lambda x, h: SyntheticInput(4, h.shape[1])
    )
    inputs = model.get_submodule("0.interface.inputs")
    assert all(p.dtype == torch.float64 for p in inputs.parameters())
    assert any(name.startswith("0.interface.inputs.") for name in model.state_dict())
    assert not any("interface" in name for name in sg.recouple(model).state_dict())


def test_what_is_no_model_is_refused(as_installed):
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    wrong: Any = lambda x, h: model[0]  # noqa: E731
    with pytest.raises(ArgumentError, match="got Linear"):
        sg.Interface(Linear(4), inputs=nn.Linear(4, 4))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"inputs must return a model such as .*, got Linear"):
        sg.decouple(model, "0", "linear", example_inputs=torch.ones(2, 4), inputs=wrong)
    with pytest.raises(ArgumentError, match=r"need example_inputs to be the one tensor .*NoneType"):
        sg.decouple(model, "0", "linear", inputs=lambda x, h: SyntheticInput(4, 5))
