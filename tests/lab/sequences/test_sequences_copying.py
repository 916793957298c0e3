"""Training on Copy and Repeat Copy: it learns, and it resumes to the last bit."""

import pytest
import torch

from synthgrad import checkpoint
from synthgrad.errors import NonFiniteError
from synthgrad.lab.experiments import ALL
from synthgrad.lab.experiments.copying import EpisodeTrainer

CPU = torch.device("cpu")
SMALL = {"units": 8, "batch_size": 16, "iterations": 60, "level_every": 6, "clip": 1.0}


def _trainer(name="copy", **values) -> EpisodeTrainer:
    recipe = ALL[name]
    trainer = recipe.trainer(recipe.defaults.changed(**(SMALL | values)), None, CPU)
    assert isinstance(trainer, EpisodeTrainer)
    return trainer


def _advance(trainer, steps):
    for _ in range(steps):
        trainer.advance()
    return trainer


def _flat(state):
    """All leaves of nested containers, tensors as lists."""
    if isinstance(state, torch.Tensor):
        return [state.tolist()]
    if isinstance(state, dict):
        return [leaf for value in state.values() for leaf in _flat(value)]
    if isinstance(state, list | tuple):
        return [leaf for value in state for leaf in _flat(value)]
    return [state]


VARIANTS = [
    {"method": "bptt"},
    {"method": "bptt", "clip": 0.0, "phases": "same"},
    {"method": "dni", "warmup": 30},
    {"method": "dni", "unroll": 1, "feedback_into_core": True, "feedback_clip": 0.5},
    {"method": "dni", "feedback_sees": "state", "feedback_into_core": True},
    {"method": "dni-aux", "auxiliary_into_core": "no", "feedback_hidden": ()},
    {"method": "dni", "feedback_history": 4, "feedback_sees": "state", "feedback_into_core": True},
    {"method": "dni-aux", "feedback_history": 2, "auxiliary_into_core": "all"},
    {"method": "dni-aux", "feedback_into_core": True, "auxiliary_hidden": (5,)},
    {"method": "dni-aux", "auxiliary_into_core": "last"},
    {
        "method": "dni-aux",
        "auxiliary_into_core": "last",
        "feedback_into_core": True,
        "precision": "bfloat16",
    },
]


@pytest.mark.parametrize(
    ("at", "values"),
    # In turn at the end of a block of steps, and inside one.
    [(12 + i % 2, values) for i, values in enumerate(VARIANTS)],
    ids=str,
)
def test_resumed_equals_unbroken_to_the_last_bit(at, values, tmp_path):
    values = {"threshold": 4.0, **values}  # every level is solved as soon as there is enough
    whole = _advance(_trainer("repeat-copy", **values), 20)
    broken = _advance(_trainer("repeat-copy", **values), at)
    checkpoint.save(tmp_path, at, broken.state_dict())
    state = checkpoint.load(tmp_path)
    assert state is not None
    resumed = _trainer("repeat-copy", **values)
    resumed.load_state_dict(state)
    _advance(resumed, 20 - at)
    assert resumed.curriculum.solved_length >= 4
    assert _flat(resumed.state_dict()) == _flat(whole.state_dict())
    assert resumed.evaluate() == whole.evaluate()
    assert resumed.summary() == whole.summary()


def test_a_synthetic_gradient_that_is_not_trusted_yet_changes_nothing():
    bptt = _advance(_trainer(method="bptt", learning_rate=1e-2), 20)
    dni = _advance(_trainer(method="dni", learning_rate=1e-2, warmup=20), 20)
    for a, b in zip(
        bptt.learner.network.parameters(), dni.learner.network.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b)
    learnt = [
        _advance(t, 5).learner.network.core.get_parameter("weight_hh_l0") for t in (bptt, dni)
    ]
    assert not torch.allclose(learnt[0], learnt[1])


@pytest.mark.parametrize("values", [v for v in VARIANTS if v["method"] != "bptt"], ids=str)
def test_what_is_kept_gives_the_message_again(values, monkeypatch):
    trainer = _advance(_trainer(**values), 3)
    bridge = trainer.learner.bridge
    assert bridge is not None
    end, seen = bridge.end, []

    def watched(state, message, *, steps=None, inputs=None):
        if bridge.last_core is not None:
            assert inputs is not None
            again = bridge.last_core(*inputs)
            torch.testing.assert_close(again, message if again.ndim == 2 else steps)
            seen.append(again)
        if steps is not None:
            assert isinstance(steps, torch.Tensor)
            assert len(steps) == trainer.config.unroll
            torch.testing.assert_close(steps[-1], message)
        return end(state, message, steps=steps, inputs=inputs)

    monkeypatch.setattr(bridge, "end", watched)
    _advance(trainer, 2)
    assert len(seen) == (0 if bridge.last_core is None else 2)


def test_what_is_measured():
    trainer = _advance(_trainer(method="dni-aux", iterations=20), 20)
    values = trainer.evaluate()
    assert values["samples"] == 20 * 16 * 3
    assert (values["n"], values["r"], values["task_length"], values["solved_length"]) == (
        1,
        1,
        4,
        0,
    )
    assert 0.5 < values["train_bits"] < 4
    assert values["gradient_norm"] > 0
    assert values["feedback_gradient_norm"] > 0
    assert values["explained/boundary"] < 1
    assert values["explained/auxiliary"] < 1
    assert "explained/boundary" not in _advance(_trainer(method="bptt"), 2).evaluate()


def test_the_average_is_that_of_what_counts():
    trainer = _trainer(method="bptt", level_every=4)
    seen = []
    learn = trainer.learner.learn

    def watched(chunk, step):
        logits, _ = trainer.learner.network(chunk.inputs, trainer.learner.state)
        bits = -logits.log_softmax(-1).gather(-1, chunk.targets.unsqueeze(-1)).squeeze(-1)
        seen.append(bits[chunk.weights[0] > 0] / torch.log(torch.tensor(2.0)))
        learn(chunk, step)

    trainer.learner.learn = watched
    _advance(trainer, 10)
    assert trainer.evaluate()["train_bits"] == pytest.approx(torch.cat(seen).mean().item())
    seen.clear()
    _advance(trainer, 5)
    assert trainer.evaluate()["train_bits"] == pytest.approx(torch.cat(seen).mean().item())


def test_bptt_over_five_steps_learns_to_copy():
    trainer = _trainer(
        method="bptt",
        unroll=5,
        units=32,
        batch_size=64,
        characters=2,
        learning_rate=1e-2,
        level_every=10,
        iterations=2000,
    )
    while trainer.curriculum.solved_length < 5 and trainer.step < 2000:
        trainer.advance()
    assert trainer.curriculum.solved_length >= 5  # N = 2
    (first, four), *_ = trainer.summary()["levels"]
    assert four == 4
    assert first % (10 * 5 * 64) == 0


def test_the_last_steps_are_judged_too():
    values = {"threshold": 4.0, "level_every": 50, "iterations": 20}
    trainer = _advance(_trainer(**values), 19)
    assert trainer.evaluate()["solved_length"] == 0
    assert _advance(trainer, 1).evaluate()["solved_length"] == 4
    again = _trainer(**values)
    again.load_state_dict(trainer.state_dict())
    assert again.summary() == trainer.summary()
    hardly = _advance(_trainer(threshold=4.0, iterations=1), 1)  # less than an episode of each row
    assert hardly.curriculum.solved_length == 0


def test_the_end_of_a_block_at_the_end_is_judged_once(monkeypatch):
    trainer, judged = _trainer(iterations=12), []
    monkeypatch.setattr(trainer, "_check_level", lambda: judged.append(trainer.step))
    _advance(trainer, 12)
    assert judged == [6, 12]


def test_divergence_is_told():
    trainer = _advance(_trainer(method="bptt"), 3)
    with torch.no_grad():
        trainer.learner.network.task.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="training has diverged"):
        _advance(trainer, 14)
    trainer.learner.state[0].fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        trainer.state_dict()
