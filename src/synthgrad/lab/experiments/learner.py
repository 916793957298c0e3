"""One training step of a recurrent network: an unroll, its gradients, Adam, and what it came to."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synthgrad.errors import NonFiniteError
from synthgrad.lab.experiments.captured import CapturedStep, recorder_for
from synthgrad.lab.experiments.lstm import Network, State, bridge, message_of
from synthgrad.lab.experiments.rates import Rate, adam
from synthgrad.lab.experiments.recurrent import RecurrentConfig
from synthgrad.lab.runs.divergence import check_weights
from synthgrad.types import Float, Shaped


class Chunk(NamedTuple):
    """What one training step reads.

    Attributes:
        inputs: one-hot, ``"steps batch channels"``.
        targets: the class to be put out, ``"steps batch"``, int64.
        weights: 1 where a step counts and 0 elsewhere: in the loss (first), and in a second average
            of the error that is kept beside it, ``"2 steps batch"``.
        numbers: their sums, ``"2"``.
    """

    inputs: Float[Tensor, "steps batch channels"]
    targets: Shaped[Tensor, "steps batch"]
    weights: Float[Tensor, "2 steps batch"]
    numbers: Shaped[Tensor, "2"]


class History:
    """The last inputs of every row, carried from unroll to unroll.

    A state that has forgotten a character cannot tell M which error that character will cause; an
    input that M sees itself can. Inputs are small next to states, and nothing is backpropagated
    through them.

    Args:
        length: how many inputs, the present one among them.
        batch: rows.
        channels: the width of an input.
        device: where they live.

    Attributes:
        past: the inputs before the next unroll, ``"length-1 batch channels"``; zeros at first.
    """

    def __init__(self, length: int, batch: int, channels: int, device: torch.device) -> None:
        self.length = length
        self.past = torch.zeros(max(length - 1, 0), batch, channels, device=device)

    def windows(
        self, inputs: Float[Tensor, "steps batch channels"], steps: int
    ) -> Float[Tensor, "wanted batch width"]:
        """For each of the last ``steps`` steps, its last inputs side by side."""
        if not self.length:
            return inputs[-steps:, :, :0]
        every = torch.cat([self.past, inputs])[-(len(self.past) + steps) :]
        return every.unfold(0, self.length, 1).flatten(2)

    def advance(self, inputs: Float[Tensor, "steps batch channels"]) -> None:
        """Goes on to the next unroll, in the same memory."""
        if len(self.past):
            self.past.copy_(torch.cat([self.past, inputs])[-len(self.past) :])


class Learner:
    """The network and all that trains it.

    The loss is the sum over an unroll's steps of their cross entropies, a mean over the rows: a
    step counts alike whatever T is, and what the feedback model predicts is the error of the sum of
    all losses to come. Nothing in a step waits for the device.

    Args:
        config: all settings, settled.
        channels: the width of the input.
        classes: of the task.
        device: where it trains.

    Attributes:
        totals: sums over all steps so far, ``"2 2"`` in float64: bits, and how many characters, for
            each of the two weights. Averages are taken between two looks at it.
    """

    def __init__(
        self, config: RecurrentConfig, channels: int, classes: int, device: torch.device
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        # The network first: the same weights whatever the method.
        self.network = Network(channels, config.units, classes, config.forget_bias).to(device)
        made = bridge(config, self.network)
        self.bridge = made and made.to(device)
        own = Rate(config.learning_rate, device)
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if self.bridge is not None:
            others = Rate(config.feedback_learning_rate, device)
            groups += [{"params": list(self.bridge.parameters()), "lr": others.tensor}]
        self.optimizer = adam(groups, own)
        self._groups = [
            (group["params"], clip)
            for group, clip in zip(groups, (config.clip, config.feedback_clip), strict=False)
        ]
        self.norms = torch.zeros(len(groups), device=device)
        self.state = self.network.zero_state(config.batch_size)
        assert config.feedback_history is not None  # settled
        seen = 0 if self.bridge is None else config.feedback_history  # plain BPTT pays for none
        self.history = History(seen, config.batch_size, channels, device)
        self.totals = torch.zeros(2, 2, dtype=torch.float64, device=device)
        recorder = recorder_for(device, config.graph)
        self._captured = None
        if recorder is not None:
            self._captured = CapturedStep(self._learn_room, (), recorder)
            if self.bridge is not None:  # the totals will tell, without a wait at each step
                self.bridge.check_finite = False
        self._room: Chunk | None = None

    def learn(self, chunk: Chunk, step: int) -> None:
        """Learns from the next unroll of all rows.

        Args:
            chunk: what they read.
            step: how many training steps came before.
        """
        self._trust(step)
        if self._captured is None:
            self._learn(chunk)
            return
        if self._room is None:
            self._room = Chunk(*(torch.empty_like(part) for part in chunk))
        for room, part in zip(self._room, chunk, strict=True):
            room.copy_(part)
        self._captured()

    def _trust(self, step: int) -> None:
        """Whether the synthetic gradient is consumed already."""
        if self.bridge is None:
            return
        assert self.config.scale is not None  # settled
        scale = self.config.scale if step >= (self.config.warmup or 0) else 0.0
        if scale != self.bridge.scale:
            self.bridge.scale = scale
            if self._captured is not None:
                self._captured.forget()

    def _learn_room(self) -> None:
        assert self._room is not None
        self._learn(self._room)

    def _learn(self, chunk: Chunk) -> None:
        beyond = None
        with self._precision():
            if self.bridge is None:
                logits, state = self.network(chunk.inputs, self.state)
            else:
                logits, state, beyond = self._bridged(chunk.inputs)
        logits = logits.flatten(0, 1).float()
        losses = F.cross_entropy(logits, chunk.targets.flatten(), reduction="none")
        weights = chunk.weights.flatten(1)
        loss = losses @ weights[0] / chunk.targets.shape[1]
        self.optimizer.zero_grad()
        (loss if beyond is None else loss + beyond).backward()
        for group, (parameters, clip) in enumerate(self._groups):
            if clip:
                norm = nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
                self.norms[group].copy_(norm)
        self.optimizer.step()
        self.totals[0].add_(weights @ losses.detach(), alpha=1 / math.log(2))
        self.totals[1].add_(chunk.numbers)
        self.history.advance(chunk.inputs)
        for kept, new in zip(self.state, state, strict=True):
            kept.copy_(new.detach())

    def _precision(self) -> torch.autocast:
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.totals.device.type, torch.bfloat16, enabled=enabled)

    def _bridged(self, inputs: Tensor) -> tuple[Tensor, State, Tensor]:
        """The logits, the state after the unroll, and the error from beyond it as a scalar."""
        assert self.bridge is not None
        core, again = self.network.core, None
        predicting = 1 if self.bridge.auxiliary is None else len(inputs)
        history = self.history.windows(inputs, predicting)
        before: State = self.bridge.begin(self.state)
        if self.bridge.last_core is None:
            outputs, state = core(inputs, before)
        elif self.config.auxiliary_into_core == "all" and self.bridge.auxiliary is not None:
            outputs, state = core(inputs, before)
            again = (inputs, *before, history)
        else:  # the last step by itself, for the state before it
            earlier, last = inputs[:-1], inputs[-1:]
            outputs = []
            if len(earlier):
                output, before = core(earlier, before)
                outputs.append(output)
            again = (last, *before, history[-1:])
            output, state = core(last, before)
            outputs = torch.cat([*outputs, output])
        if self.config.feedback_sees == "state":
            message, messages = torch.cat([message_of(state), history[-1]], dim=1), None
        else:
            messages = torch.cat([outputs[-predicting:], history], dim=2)
            message = messages[-1]
        beyond = self.bridge.end(
            state,
            message,
            steps=None if self.bridge.auxiliary is None else messages,
            inputs=again,
        )
        return self.network.task(outputs), state, beyond

    def measured(self) -> dict[str, float]:
        """How large the last gradients were, and how well they were predicted since the last call.

        Gradient norms are those before clipping.
        """
        names = ("gradient_norm", "feedback_gradient_norm")
        values = {}
        for name, (parameters, clip), norm in zip(names, self._groups, self.norms, strict=False):
            if not clip:
                grads = [p.grad for p in parameters if p.grad is not None]
                norm = nn.utils.get_total_norm(grads)
            values[name] = float(norm)
        if self.bridge is not None:
            for kind, explained in self.bridge.explained.items():
                if explained.total is not None:
                    values[f"explained/{kind}"] = explained.mean.item()
                    explained.reset()
        return values

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on.

        Raises:
            NonFiniteError: the carried state or a weight is not finite; such a state is not worth
                to be kept.
        """
        if not all(bool(part.isfinite().all()) for part in self.state):
            raise NonFiniteError("training has diverged: the LSTM's state has NaN or infinity")
        check_weights(self.network)
        return {
            "network": self.network.state_dict(),
            "bridge": None if self.bridge is None else self.bridge.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": list(self.state),
            "history": self.history.past,
            "totals": self.totals,
            "norms": self.norms,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        if self.bridge is not None:
            self.bridge.load_state_dict(state["bridge"])
        self.optimizer.load_state_dict(state["optimizer"])
        for kept, saved in zip(self.state, state["state"], strict=True):
            kept.copy_(saved)
        self.history.past.copy_(state["history"])
        self.totals.copy_(state["totals"])
        self.norms.copy_(state["norms"])
        if self._captured is not None:
            self._captured.forget()


class Window(NamedTuple):
    """What came since the beginning of a window.

    Attributes:
        bits: the summed error.
        number: of how many characters.
        ends: both sums, from the very beginning to the window's end.
    """

    bits: float
    number: float
    ends: tuple[float, float]

    @property
    def mean(self) -> float:
        """Bits per character; NaN of none."""
        return self.bits / self.number if self.number else math.nan


class Averages:
    """Windows over :attr:`Learner.totals`, one after the other.

    Args:
        totals: the sums, ``"2 2"``; they are read only when somebody looks.
        which: of the two weights.
    """

    def __init__(self, totals: Tensor, which: int) -> None:
        self._totals = totals
        self._which = which
        self._begins = (0.0, 0.0)

    def look(self) -> Window:
        """The window until now; waits for the device."""
        bits, number = self._totals[:, self._which].tolist()
        return Window(bits - self._begins[0], number - self._begins[1], (bits, number))

    def restart(self, window: Window) -> None:
        """Begins a new window where one that was looked at ends."""
        self._begins = window.ends

    def state(self) -> list[float]:
        """Where the window began."""
        return list(self._begins)

    def restore(self, state: list[float]) -> None:
        """Takes over what :meth:`state` returned."""
        self._begins = (state[0], state[1])
