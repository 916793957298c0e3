"""The recurrent network of the paper, and the bridge over the ends of its unrolls (D.2)."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad.errors import SynthgradWarning
from synthgrad.feedback import MLP
from synthgrad.lab.experiments.recurrent import RecurrentConfig
from synthgrad.recurrent import RecurrentInterface
from synthgrad.types import Float

State = tuple[Tensor, Tensor]


class Core(nn.LSTM):
    """An LSTM that computes in float32 where autocast asks for a bfloat16 that the device lacks."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # packs no sequences
        self, input: Tensor, hx: State | None = None
    ) -> tuple[Tensor, State]:
        """The outputs, ``"steps batch units"``, and the state after the last step."""
        kind = input.device.type
        asked = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        if not asked or has_bfloat16_lstm(kind):
            return super().forward(input, hx)
        with torch.autocast(kind, enabled=False):
            return super().forward(input.float(), hx and (hx[0].float(), hx[1].float()))


@functools.cache
def has_bfloat16_lstm(kind: str) -> bool:
    """Whether a kind of device computes an LSTM under autocast to bfloat16, by trying it once.

    oneDNN does so only on processors with AVX-512 (linear layers and convolutions it emulates).
    Where it cannot, that is said once, as a :class:`SynthgradWarning`.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        lstm, steps = nn.LSTM(1, 1).to(kind), torch.zeros(2, 1, 1, device=kind)
        try:
            with torch.autocast(kind, torch.bfloat16):
                outputs, _ = lstm(steps)
            outputs.sum().backward()
        except RuntimeError:
            warnings.warn(
                f"--precision bfloat16: PyTorch has no LSTM in bfloat16 for this {kind}; "
                "the LSTM computes in float32, everything else in bfloat16",
                SynthgradWarning,
                stacklevel=2,
            )
            return False
    return True


class Network(nn.Module):
    """An LSTM whose output goes to the task through a linear layer.

    Args:
        channels: the width of the input.
        units: of the LSTM.
        classes: the width of the task's output.
        forget_bias: of the forget gate at the start.
    """

    def __init__(self, channels: int, units: int, classes: int, forget_bias: float) -> None:
        super().__init__()
        self.core = Core(channels, units)
        self.task = nn.Linear(units, classes)
        # PyTorch has two biases, whose sum counts; the gates are i, f, g, o.
        nn.init.constant_(self.core.get_parameter("bias_ih_l0")[units : 2 * units], forget_bias)
        nn.init.zeros_(self.core.get_parameter("bias_hh_l0")[units : 2 * units])

    def forward(
        self, inputs: Float[Tensor, "steps batch channels"], state: State
    ) -> tuple[Float[Tensor, "steps batch classes"], State]:
        """The task's logits at each step, and the state after the last."""
        outputs, state = self.core(inputs, state)
        return self.task(outputs), state

    def zero_state(self, batch: int) -> State:
        """The state of rows that have read nothing: h and c, ``"1 batch units"`` each."""
        weight = self.task.weight
        return (
            weight.new_zeros(1, batch, self.core.hidden_size),
            weight.new_zeros(1, batch, self.core.hidden_size),
        )


def bridge(config: RecurrentConfig, network: Network) -> RecurrentInterface | None:
    """What bridges the ends of unrolls; None for plain truncated BPTT.

    M has one hidden layer and then a linear map to the error of output and cell; so has the
    auxiliary model (D.2).
    """
    if config.method == "bptt":
        return None
    assert config.scale is not None  # all settings are settled
    assert config.feedback_history is not None
    units = config.units
    hidden = (units,) if config.feedback_hidden is None else config.feedback_hidden
    ahead = hidden if config.auxiliary_hidden is None else config.auxiliary_hidden
    sees = units if config.feedback_sees == "output" else 2 * units
    sees += config.feedback_history * network.core.input_size
    out = 2 * units
    feedback, auxiliary = MLP(sees, hidden, out_features=out, batch_norm=False), None
    flows = config.feedback_into_core
    if config.method == "dni-aux":
        auxiliary = OfOutput(units, ahead, out_features=out, batch_norm=False)
        flows = flows or config.auxiliary_into_core != "no"
    recomputed = RecomputedMessage(network, config.feedback_sees == "state")
    return RecurrentInterface(
        feedback,
        config.scale,
        auxiliary,
        last_core=recomputed if flows else None,
        feedback_into_core=config.feedback_into_core,
        batch_dim=1,
        name=f"T={config.unroll}",
    )


class OfOutput(MLP):
    """An auxiliary model that sees of a message only the LSTM's output, which comes first.

    What it is to say must then be in the output: the inputs beside it would save the LSTM from
    remembering them.
    """

    def forward(
        self, h: Float[Tensor, "batch *time message"], context: Any = None
    ) -> Float[Tensor, "batch *time out_features"]:
        """Predicts from the first ``features`` columns."""
        return super().forward(h[..., : self.features], context)


class RecomputedMessage:
    """Computes what M saw again, with a graph (fig. 10: the core that is kept in memory).

    Args:
        network: whose LSTM it is.
        sees_state: whether the message is the state rather than the output.
    """

    def __init__(self, network: Network, sees_state: bool) -> None:
        self.network = network
        self.sees_state = sees_state

    def __call__(self, inputs: Tensor, hidden: Tensor, cell: Tensor, history: Tensor) -> Tensor:
        """The message of one step, ``"batch width"``; of several, ``"steps batch width"``.

        Args:
            inputs: ``"steps batch channels"``.
            hidden: the LSTM's h before them, ``"1 batch units"``.
            cell: its c.
            history: what M sees besides at each step, ``"steps batch history"``.
        """
        outputs, state = self.network.core(inputs, (hidden, cell))
        if self.sees_state:
            return torch.cat([message_of(state), history[-1]], dim=1)
        messages = torch.cat([outputs, history], dim=2)
        return messages[0] if len(messages) == 1 else messages


def message_of(state: State) -> Float[Tensor, "batch width"]:
    """Output and cell state side by side."""
    return torch.cat([state[0][-1], state[1][-1]], dim=1)
