"""Streams of episodes against a slow generator, row by row and step by step."""

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.lab.experiments.episodes import EpisodeStream, scramble
from synthgrad.lab.experiments.levels import Level, Task
from tests.tape import Tape

COPY, REPEAT = Task(repeats=False), Task(repeats=True)


def _slow_row(stream: EpisodeStream, seed, row, position, episode):
    """A row's steps, one by one: input symbol, number, target, whether it counts, its level."""
    task, stop = stream.task, stream.characters
    row_key = scramble(row ^ scramble(seed))
    while True:
        level = stream.level  # looked at when the episode begins
        characters = [
            scramble(scramble(row_key ^ episode) ^ i) * stop >> 32 for i in range(level.n)
        ]
        steps = [(symbol, 0.0, None) for symbol in [*characters, stop]]
        if task.repeats:
            steps.append((None, level.r * 0.1, None))
        steps += [(None, 0.0, target) for target in [*characters * level.r, stop]]
        for symbol, number, target in steps[position:]:
            yield symbol, number, target, target is not None and episode > 0, level
        position, episode = 0, episode + 1


def _slow(stream: EpisodeStream, seed):
    positions, episodes, *_ = stream.state_dict()["rows"].tolist()
    return [
        _slow_row(stream, seed, row, position, episode)
        for row, (position, episode) in enumerate(zip(positions, episodes, strict=True))
    ]


def _assert_equal(stream, read, row, column):
    inputs, targets, counted, current = (part[:, column].tolist() for part in vars(read).values())
    for step, (symbol, number, target, counts, level) in enumerate(row):
        expected = [0.0] * stream.channels
        if symbol is not None:
            expected[symbol] = 1.0
        if number:
            expected[-1] = number
        assert [round(channel, 6) for channel in inputs[step]] == [round(x, 6) for x in expected]
        assert targets[step] == (target or 0)
        assert counted[step] == counts
        assert current[step] == (counts and level == stream.level)


@given(
    task=st.sampled_from([COPY, REPEAT]),
    characters=st.integers(2, 9),
    batch=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    phases=st.sampled_from(["random", "same"]),
    reads=st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4
    ),
)
def test_a_stream_is_what_a_slow_generator_says(task, characters, batch, seed, phases, reads):
    stream = EpisodeStream(task, characters, batch, seed, phases)
    rows = _slow(stream, seed)
    for steps, n, r in reads:
        read = stream.read(steps)
        for column, row in enumerate(rows):
            _assert_equal(stream, read, list(islice(row, steps)), column)
        # A slow row sees the level when its next episode begins: after this, as the stream does.
        stream.level = Level(n, r if task.repeats else 1)


class _Solver:
    """Knows the task only from its inputs; says what is to be written, None for nothing."""

    def __init__(self, stream):
        self.stream = stream
        self.read, self.to_write = [], []

    def __call__(self, inputs):
        if self.to_write:
            assert not any(inputs)
            return self.to_write.pop(0)
        if inputs[-1] and self.stream.task.repeats:
            self._know(round(inputs[-1] * 10))
        else:
            symbol = inputs.index(1.0)
            self.read.append(symbol)
            if symbol == self.stream.characters and not self.stream.task.repeats:
                self._know(1)
        return None

    def _know(self, repeats):
        *characters, stop = self.read
        self.to_write, self.read = [*characters * repeats, stop], []


@pytest.mark.parametrize("task", [COPY, REPEAT])
def test_the_inputs_say_all_that_is_to_be_written(task):
    stream = EpisodeStream(task, 5, 3, seed=7, phases="same")
    solvers = [_Solver(stream) for _ in range(3)]
    for level in (Level(1, 1), Level(3, 2 if task.repeats else 1), Level(2, 1)):
        stream.level = level
        read = stream.read(60)
        inputs, targets, counted, _ = (part.tolist() for part in vars(read).values())
        for step in range(60):
            for row, solve in enumerate(solvers):
                answer = solve(inputs[step][row])
                assert counted[step][row] == (answer is not None)
                assert targets[step][row] == (answer or 0)


@given(
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    phases=st.sampled_from(["random", "same"]),
)
def test_how_a_stream_is_cut_changes_nothing(cuts, phases):
    whole = EpisodeStream(REPEAT, 4, 3, 1, phases).read(sum(cuts))
    stream = EpisodeStream(REPEAT, 4, 3, 1, phases)
    pieces = [stream.read(cut) for cut in cuts]
    for name, value in vars(whole).items():
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), value), name


def test_a_stream_goes_on_from_its_state():
    stream = EpisodeStream(REPEAT, 4, 5, seed=3)
    stream.level = Level(3, 2)
    stream.read(17)
    stream.level = Level(3, 3)
    other = EpisodeStream(REPEAT, 4, 5, seed=3)
    other.load_state_dict(stream.state_dict())
    for a, b in zip(vars(stream.read(50)).values(), vars(other.read(50)).values(), strict=True):
        assert torch.equal(a, b)


def test_phases():
    random = EpisodeStream(COPY, 4, 4000, seed=0).state_dict()["rows"][0]
    assert random.bincount().div(4000).sub(1 / 4).abs().max() < 0.03
    assert EpisodeStream(COPY, 4, 9, 0, "same").state_dict()["rows"][0].tolist() == [0] * 9


def test_characters_are_even_and_independent():
    stream = EpisodeStream(COPY, 4, 50, seed=0, phases="same")
    stream.level = Level(30)
    stream.read(4)  # to the end of the first episode, which is of N = 1
    read = stream.read(62 * 20).inputs[..., :4].unflatten(0, (20, 62))[:, :30].argmax(-1)
    pairs = read[:, :-1] * 4 + read[:, 1:]
    assert pairs.flatten().bincount().div(pairs.numel()).sub(1 / 16).abs().max() < 0.005
    beside = read[:, :, :-1] * 4 + read[:, :, 1:]
    assert beside.flatten().bincount().div(beside.numel()).sub(1 / 16).abs().max() < 0.005
    other = EpisodeStream(COPY, 4, 50, seed=1, phases="same").read(4).inputs
    assert not torch.equal(other, EpisodeStream(COPY, 4, 50, 0, "same").read(4).inputs)


@pytest.mark.parametrize("task", [COPY, REPEAT])
def test_reading_never_waits_for_the_device(task):
    operations = []
    for batch in (3, 300):
        stream, tape = EpisodeStream(task, 4, batch, seed=0), Tape()
        with tape:  # refuses whatever the host would have to look at
            stream.read(20)
        operations.append(len(tape._operations))
    assert operations[0] == operations[1]  # nor is there a loop over rows
