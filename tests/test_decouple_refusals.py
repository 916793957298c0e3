import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.feedback import Linear

pytestmark = pytest.mark.usefixtures("as_installed")


class _Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.linear = nn.Linear(5, 2)
        self.spare = nn.Linear(5, 2)

    def forward(self, x):
        return self.linear(self.lstm(x)[0])


def _net():
    return nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()))


X = torch.randn(6, 3, 4)


@pytest.mark.parametrize(
    ("model", "at", "options", "complaint"),
    [
        (_net(), "2", {}, r"Sequential has no submodule '2'"),
        (_net(), "1.2", {}, r"no submodule '1.2'; did you mean '1.(0|1)' or "),
        (_net(), "", {}, "no submodule ''"),
        (_Recurrent(), ["linear", "linaer"], {}, "no submodule 'linaer'; did you mean 'linear'"),
        (_net(), [], {}, "at least one"),
        (_net(), "0", {"feedback": "conf"}, "'linear', 'mlp', 'conv' or a function.*got 'conf'"),
        (_net(), "0", {"feedback": Linear}, "a feedback function needs example_inputs"),
        (_net(), "0", {"feedback": lambda h: Linear(5), "context": 3}, "context=3 sizes the built"),
        (_net(), "0", {"lambda_": 1.5}, r"\[0, 1\], got 1.5"),
        (_net(), "0", {"reduction": "none"}, "got 'none'"),
        (_net(), "0", {"context": -1}, "context must be an integer of at least 0, got -1"),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), "0", {}, "do not tell .* pass example_inputs"),
        (nn.ModuleList([nn.Linear(4, 2)]), "0", {"example_inputs": X}, "forward"),
        (nn.Sequential(nn.ModuleDict()), "0", {}, "ModuleDict runs its children by itself"),
        (_Recurrent(), "spare", {"example_inputs": X}, "'spare' did not run"),
        (sg.decouple(_net(), "0", "linear"), "0", {}, "'0' already has an interface"),
        (sg.decouple(_net(), "0", "linear"), "0.interface", {}, "is itself an interface"),
        (nn.Sequential(*[nn.Linear(4, 4)] * 2), ["0", "1"], {}, "'0' and '1' are the same module"),
        (
            _Recurrent(),
            "linear",
            {"feedback": nn.Identity, "example_inputs": X},
            "'linear': .*Identity",
        ),
    ],
)
def test_what_cannot_be_cut_is_named_and_the_model_stays_as_it_was(model, at, options, complaint):
    before, shown = copy.deepcopy(model.state_dict()), repr(model)
    with pytest.raises((ArgumentError, NotImplementedError), match=complaint):
        sg.decouple(model, at, options.pop("feedback", "linear"), **options)
    assert repr(model) == shown
    assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("at", "feedback", "complaint"),
    [
        ("lstm", "linear", "submodule 'lstm' returns tuple, but a message is one tensor"),
        ("linear", "conv", r"interface 'linear': \"conv\" expects .* 4 dim.*got \(6, 3, 2\)"),
        (["linear", "lstm"], "linear", "submodule 'lstm'"),
    ],
)
def test_a_message_that_does_not_suit_is_named_and_the_model_stays_as_it_was(
    at, feedback, complaint
):
    model = _Recurrent()
    shown = repr(model)
    with pytest.raises(ShapeError, match=complaint):
        sg.decouple(model, at, feedback, example_inputs=X)
    assert repr(model) == shown
    assert not any(module._forward_hooks for module in model.modules())


def test_without_an_example_a_tuple_is_refused_when_it_comes():
    model = sg.decouple(
        nn.Sequential(nn.Embedding(3, 4), nn.LSTM(4, 5)), "1", "linear", batch_dim=1
    )
    with pytest.raises(ShapeError, match=r"interface '1': .*one floating-point tensor.*got tuple"):
        model(torch.zeros(2, 3, dtype=torch.long))


def test_a_size_guessed_wrongly_is_refused_when_the_message_comes():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 7))
    sg.decouple(model, "1", "linear")
    with pytest.raises(ShapeError, match=r"interface '1': .*\(batch, 3\).*got \(5, 12\)"):
        model(torch.ones(5, 1, 2, 2))


def test_a_function_that_fails_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))

    def make(message):
        if message.shape[-1] == 6:
            raise ZeroDivisionError
        return Linear(message.shape[-1])

    shown = repr(model)
    with pytest.raises(ZeroDivisionError):
        sg.decouple(model, ["0", "1"], make, example_inputs=X)
    assert repr(model) == shown
