"""Language modelling: what is read, how it is measured, and when it stops."""

import math

import pytest
import torch
from torch.nn import functional as F

from synthgrad.errors import NonFiniteError
from synthgrad.lab.data.text import TextData
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments import ALL
from synthgrad.lab.experiments.lstm import Network
from synthgrad.lab.experiments.text import TextStream, TextTrainer, bits_per_character

CPU = torch.device("cpu")


def _text(length, symbols=5, seed=0):
    return torch.randint(symbols, (length,), generator=torch.Generator().manual_seed(seed))


def _data(length=300) -> TextData:
    """A text in which each character follows from the last: 0, 1, 2, 3, 4, 0, …"""
    ring = torch.arange(length) % 5
    return TextData("ring", "abcde", ring, ring[:101], ring[:102])


def _trainer(data=None, **values) -> TextTrainer:
    recipe = ALL["ptb"]
    small = {"units": 16, "batch_size": 8, "learning_rate": 1e-2, "method": "bptt"}
    trainer = recipe.trainer(recipe.defaults.changed(**(small | values)), data or _data(), CPU)
    assert isinstance(trainer, TextTrainer)
    return trainer


@pytest.mark.parametrize(("length", "batch", "unroll"), [(23, 4, 3), (20, 5, 4), (7, 7, 9)])
def test_rows_read_on_and_on(length, batch, unroll):
    text = _text(length)
    stream = TextStream(text, 5, batch, unroll)
    for step in range(12):
        chunk = stream.at(step)
        for row in range(batch):
            begin = row * length // batch + step * unroll
            expected = [int(text[(begin + i) % length]) for i in range(unroll + 1)]
            assert chunk.inputs[:, row].argmax(-1).tolist() == expected[:-1]
            assert chunk.targets[:, row].tolist() == expected[1:]
        assert chunk.inputs.sum(-1).eq(1).all()
        assert chunk.numbers.tolist() == [unroll * batch] * 2


def test_one_round_reads_all_once():
    stream = TextStream(torch.arange(24), 24, batch=4, unroll=3)
    read = torch.cat([stream.at(step).inputs.argmax(-1).flatten() for step in range(2)])
    assert sorted(read.tolist()) == list(range(24))


def test_more_rows_than_text_are_refused():
    with pytest.raises(UsageError, match="--batch-size: 8 rows, but the text has only 7"):
        TextStream(_text(7), 5, batch=8, unroll=2)


def test_an_unroll_longer_than_a_rows_text_is_refused():
    _trainer(_data(300), batch_size=8, unroll=37)
    says = "--unroll: 38 steps, but each of the 8 rows has only 37 characters"
    with pytest.raises(UsageError, match=says):
        _trainer(_data(300), batch_size=8, unroll=38)


def _one_by_one(network, text, context=None):
    """Bits of each character but the first, from a state that read all, or ``context``, before."""
    bits = []
    for i in range(1, len(text)):
        begin = 0 if context is None else max(0, i - context)
        inputs = F.one_hot(text[begin:i], 5).float().unsqueeze(1)
        logits, _ = network(inputs, network.zero_state(1))
        bits.append(F.cross_entropy(logits[-1], text[i : i + 1]).item() / math.log(2))
    return bits


@torch.no_grad()
def test_bits_per_character_is_the_mean_of_all_but_the_first():
    network, text = Network(5, 6, 5, 1.0), _text(240)
    expected = sum(_one_by_one(network, text)) / 239
    assert bits_per_character(network, text, rows=1) == pytest.approx(expected, rel=1e-5)
    # The LSTM forgets; with a context of 30 the rows have the states of one that read all.
    assert bits_per_character(network, text, rows=7, context=30) == pytest.approx(
        expected, rel=1e-4
    )
    cold = bits_per_character(network, text, rows=60, context=0)
    assert cold != pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("values", [{"method": "bptt"}, {"method": "dni"}, {"method": "dni-aux"}])
def test_resumed_equals_unbroken(values):
    whole, broken = _trainer(**values), _trainer(**values)
    numbers = []
    for trainer in (whole, broken):
        for _ in range(10):
            trainer.advance()
        numbers.append(trainer.evaluate())
    resumed = _trainer(**values)
    resumed.load_state_dict(broken.state_dict())
    for trainer in (whole, resumed):
        for _ in range(10):
            trainer.advance()
    assert whole.evaluate() == resumed.evaluate()
    assert whole.samples == resumed.samples == 20 * 8 * 3
    for a, b in zip(
        whole.learner.network.parameters(), resumed.learner.network.parameters(), strict=True
    ):
        assert torch.equal(a, b)


def test_it_learns_and_notes_when_the_level_is_reached():
    trainer = _trainer(bpc_level=0.5)
    assert trainer.summary() == {"bpc_level": 0.5, "data_to_bpc": None, "seconds_to_bpc": None}
    values = {}
    while trainer.step < 200 and not trainer.finished:
        trainer.advance()
        if trainer.step % 20 == 0:
            values = trainer.evaluate()
    assert values["test_bpc"] < 0.3
    assert values["train_bits"] < 0.5
    summary = trainer.summary()
    assert 0 < summary["data_to_bpc"] < trainer.samples
    assert summary["data_to_bpc"] % (20 * 8 * 3) == 0
    assert 0 < summary["seconds_to_bpc"] < 60


def test_it_stops_when_validation_rises_and_reports_the_best(monkeypatch):
    from synthgrad.lab.experiments import text as language

    measured = iter([3.0, 2.9, 2.0, 1.9, 2.5, 2.6, 1.8, 1.7])
    monkeypatch.setattr(language, "bits_per_character", lambda *_: next(measured))
    trainer = _trainer(patience=2)
    trainer.advance()
    found = [trainer.evaluate() for _ in range(2)]
    assert [v["validation_bpc"] for v in found] == [3.0, 2.0]
    assert [v["test_bpc"] for v in found] == [2.9, 1.9]
    last = trainer.evaluate()  # no new best, so the test text is not looked at
    assert (last["validation_bpc"], last["best_validation_bpc"], last["test_bpc"]) == (
        2.5,
        2.0,
        1.9,
    )
    assert not trainer.finished
    trainer.evaluate()
    assert trainer.finished
    forever = _trainer(patience=0)
    forever._worse = 99
    assert not forever.finished


def test_divergence_is_told():
    trainer = _trainer()
    trainer.advance()
    with torch.no_grad():
        trainer.learner.network.task.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="nan bits per character of the validation part"):
        trainer.evaluate()
