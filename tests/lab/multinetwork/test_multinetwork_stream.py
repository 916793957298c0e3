"""What the streams show, and what is asked about it."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.lab.experiments.digit_streams import Streams, rounds, stretch


def _digits(n, seed=0):
    y = torch.randint(10, (n,), generator=torch.Generator().manual_seed(seed))
    return torch.arange(float(n)).view(n, 1, 1, 1), y


@given(unroll=st.integers(1, 4), rows=st.integers(1, 5), seed=st.integers(0, 99))
def test_what_is_asked_is_what_was_shown(unroll, rows, seed):
    x, y = _digits(unroll**2 * rows, seed)
    seen = stretch(x, y, unroll)
    shown = y[seen.digits[..., 0].long()]  # an image here is its own number
    for row in range(rows):
        labels = shown[:, row].tolist()
        parts = [labels[i : i + unroll] for i in range(0, len(labels), unroll)]
        assert seen.odd[:, row].tolist() == [sum(d in (1, 3, 5, 7, 9) for d in p) for p in parts]
        assert seen.threes[:, row].tolist() == [p.count(3) for p in parts]
        assert seen.threes_in_all[row] == labels.count(3)


def test_an_epoch_shows_every_digit_once_and_the_next_in_another_order():
    x, y = _digits(48)
    streams = Streams(x, y, batch=4, unroll=2, seed=3)
    first = torch.cat([streams.at(step).digits.flatten() for step in range(3)])
    second = torch.cat([streams.at(step).digits.flatten() for step in range(3, 6)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(48))
    assert not torch.equal(first, second)


def test_a_step_depends_on_the_seed_and_its_number_alone():
    x, y = _digits(64)
    one, other = (Streams(x, y, batch=4, unroll=2, seed=3) for _ in range(2))
    for step in (5, 0, 9):
        other.at(step)
    assert torch.equal(one.at(7).digits, other.at(7).digits)
    assert torch.equal(one.at(7).odd, other.at(7).odd)
    third = Streams(x, y, batch=4, unroll=2, seed=4)
    assert not torch.equal(one.at(7).digits, third.at(7).digits)


def test_a_test_shows_every_digit_as_often_as_it_says():
    x, y = _digits(37)  # one is left out in each round, not always the same
    tested = rounds(x, y, unroll=2, times=5)
    assert tested.digits.shape == (4, 45, 1)
    times = tested.digits.flatten().long().bincount(minlength=37)
    assert times.sum() == 180
    assert times.max() <= 5
    assert times.min() >= 3
    assert torch.equal(tested.digits, rounds(x, y, unroll=2, times=5).digits)
