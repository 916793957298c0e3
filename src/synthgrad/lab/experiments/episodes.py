"""Streams of Copy and Repeat Copy episodes: all rows at once, on the device.

Their random numbers are a function of where they are needed, and of nothing else: such a stream has
no generator to keep, its position is its whole state, every device gives the same numbers, and all
steps of all rows can be drawn at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from synthgrad.lab.experiments.learner import Chunk
from synthgrad.lab.experiments.levels import Level, Task
from synthgrad.types import Float, Shaped

Number = TypeVar("Number", int, Tensor)

NUMBER_SCALE = 0.1
"""R is read as one number on a channel of its own, so that no level is the last; this keeps it
near 1."""

_PHASE = 1 << 31  # no episode has that number


@dataclass(frozen=True)
class Episodes:
    """A stretch of all rows' streams.

    Attributes:
        inputs: one-hot characters and stop; in Repeat Copy, R on a last channel. All zeros where
            there is nothing to read, ``"steps batch channels"``.
        targets: the character, or the stop, that is to be written; 0 where nothing is,
            ``"steps batch"``, int64.
        counted: the steps that count, as a bool: those of the writing phase.
        current: those of them in episodes at the stream's present level.
    """

    inputs: Float[Tensor, "steps batch channels"]
    targets: Shaped[Tensor, "steps batch"]
    counted: Shaped[Tensor, "steps batch"]
    current: Shaped[Tensor, "steps batch"]


class EpisodeStream:
    """Endless episodes in each row, one after the other without a gap (3.1).

    A level that is set anew is taken by each row at its next episode. With random phases a row's
    first episode has no beginning, and cannot be solved: nothing in it counts.

    Args:
        task: which of the two.
        characters: how many different ones there are.
        batch: rows.
        seed: of characters and phases.
        phases: "random", or "same" for rows that all begin with a whole episode.
        device: where everything lives.

    Attributes:
        level: of the episodes that begin from now on.
        channels: the width of the inputs.
        classes: the width of the output: the characters and the stop.
    """

    def __init__(
        self,
        task: Task,
        characters: int,
        batch: int,
        seed: int,
        phases: str = "random",
        device: torch.device | str = "cpu",
    ) -> None:
        self.task = task
        self.characters = characters
        self.level = Level()
        self.classes = characters + 1
        self.channels = self.classes + task.repeats
        rows = torch.arange(batch, device=device)
        self._keys = scramble(rows ^ scramble(seed & 0xFFFFFFFF))
        # One row per symbol: characters, stop, nothing.
        self._table = torch.eye(characters + 2, self.channels, device=device)
        self._table[characters + 1] = 0
        self._n = torch.full_like(rows, self.level.n)
        self._r = torch.full_like(rows, self.level.r)
        steps = task.steps(self.level.n, self.level.r)
        random = phases == "random"
        self._position = below(scramble(self._keys ^ _PHASE), steps if random else 1)
        self._episode = torch.full_like(rows, 0 if random else 1)

    def read(self, steps: int) -> Episodes:
        """The next ``steps`` steps of every row; neither loops over rows nor waits for them."""
        task, level = self.task, self.level
        step = torch.arange(steps, device=self._keys.device).unsqueeze(1)
        over = step - (task.steps(self._n, self._r) - self._position)
        fresh = over >= 0  # in an episode that begins in this stretch
        length = task.steps(level.n, level.r)
        position = torch.where(fresh, over % length, self._position + step)
        episode = self._episode + torch.where(fresh, over // length + 1, 0)
        n = torch.where(fresh, level.n, self._n)
        r = torch.where(fresh, level.r, self._r)
        # An episode that is over stays the row's until the next call, which may know a new level.
        self._position, self._episode = position[-1] + 1, episode[-1]
        self._n, self._r = n[-1], r[-1]
        return self._shown(position, episode, n, r)

    def _shown(self, position: Tensor, episode: Tensor, n: Tensor, r: Tensor) -> Episodes:
        stop, nothing = self.characters, self.characters + 1
        written = position - self.task.reading(n)
        which = torch.where(position < n, position, written % n)
        key = scramble(scramble(self._keys ^ episode) ^ which)
        character = below(key, self.characters)
        symbol = torch.where(position < n, character, torch.where(position == n, stop, nothing))
        inputs = F.embedding(symbol, self._table)
        if self.task.repeats:
            inputs[..., -1] = torch.where(position == n + 1, r * NUMBER_SCALE, 0)
        writing = written >= 0
        target = torch.where(written == n * r, stop, character)
        counted = writing & (episode > 0)
        current = counted & (n == self.level.n) & (r == self.level.r)
        return Episodes(inputs, torch.where(writing, target, 0), counted, current)

    def state_dict(self) -> dict[str, Any]:
        """Where every row is, and the level."""
        rows = torch.stack([self._position, self._episode, self._n, self._r])
        return {"rows": rows, "level": [self.level.n, self.level.r]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""
        rows = state["rows"].to(self._keys.device)
        self._position, self._episode, self._n, self._r = (row.clone() for row in rows)
        self.level = Level(*state["level"])


class Blocks:
    """Chunks of a stream of episodes, made a block at a time.

    The level may change between blocks: what a block holds was made at one level.

    Args:
        stream: the episodes.
        unroll: steps of a chunk.
        chunks: in a block.
    """

    def __init__(self, stream: EpisodeStream, unroll: int, chunks: int) -> None:
        self.stream = stream
        self.unroll = unroll
        self.chunks = chunks
        self._used = chunks
        self._before: dict[str, Any] = {}
        self._block: list[Chunk] = []

    @property
    def is_used_up(self) -> bool:
        """Whether the next chunk is the first of a block."""
        return self._used == self.chunks

    def next(self) -> Chunk:
        """The next chunk of all rows."""
        if self.is_used_up:
            self._make()
            self._used = 0
        chunk = self._block[self._used]
        self._used += 1
        return chunk

    def _make(self) -> None:
        self._before = self.stream.state_dict()
        episodes = self.stream.read(self.chunks * self.unroll)
        weights = torch.stack([episodes.counted, episodes.current]).float()
        weights = weights.unflatten(1, (self.chunks, self.unroll)).transpose(0, 1).contiguous()
        self._block = [
            Chunk(*parts)
            for parts in zip(
                episodes.inputs.split(self.unroll),
                episodes.targets.split(self.unroll),
                weights,
                weights.sum(dim=(2, 3)),
                strict=True,
            )
        ]

    def state_dict(self) -> dict[str, Any]:
        """Where the stream was before the block, and how much of the block is used."""
        before = self.stream.state_dict() if self.is_used_up else self._before
        return {"stream": before, "used": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`; makes the block again."""
        self.stream.load_state_dict(state["stream"])
        self._used = state["used"]
        if not self.is_used_up:
            self._make()


_MASK = 0xFFFFFFFF
_FACTOR = 0x45D9F3B


def scramble(key: Number) -> Number:
    """Maps a number in [0, 2^32), or each of a tensor (int64), to a random-looking one.

    The mixing is the well-known xor, shift and multiply of 32-bit hash functions; all products stay
    below 2^63.
    """
    key = ((key >> 16) ^ key) * _FACTOR & _MASK
    key = ((key >> 16) ^ key) * _FACTOR & _MASK
    return (key >> 16) ^ key


def below(key: Number, bound: Number | int) -> Number:
    """A number from 0 to ``bound`` - 1 for a random one in [0, 2^32); ``bound`` below 2^31."""
    return key * bound >> 32
