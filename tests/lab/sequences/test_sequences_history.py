"""What a feedback model sees of the last inputs, across the ends of unrolls."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from synthgrad.lab.experiments import ALL
from synthgrad.lab.experiments.learner import History
from synthgrad.lab.experiments.lstm import OfOutput

CPU = torch.device("cpu")


@given(
    length=st.integers(0, 6),
    chunks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_each_step_sees_its_last_inputs(length, chunks, seed):
    stream = torch.randn(sum(chunks), 2, 3, generator=torch.Generator().manual_seed(seed))
    history = History(length, 2, 3, CPU)
    seen = []
    for part in stream.split(chunks):
        seen.append(history.windows(part, len(part)))
        assert torch.equal(history.windows(part, 1), seen[-1][-1:])
        history.advance(part)
    before = torch.cat([torch.zeros(length, 2, 3), stream])
    for step, window in enumerate(torch.cat(seen)):
        last = before[step + 1 : step + 1 + length]  # the oldest first
        for row in range(2):
            # Channel by channel, which of them comes first is all the same to a linear map.
            expected = last[:, row].T.flatten()
            assert torch.equal(window[row], expected)


def test_a_forgotten_character_can_be_predicted_from():
    """With T = 1 and a core that keeps nothing, only M's own memory tells what is to be written."""

    def explained(history: int) -> float:
        recipe = ALL["copy"]
        config = recipe.defaults.changed(
            method="dni",
            unroll=1,
            units=16,
            batch_size=64,
            iterations=600,
            learning_rate=1e-5,
            feedback_learning_rate=1e-2,
            forget_bias=-3.0,
            feedback_history=history,
        )
        trainer = recipe.trainer(config, None, CPU)
        for step in range(600):
            trainer.advance()
            if step == 400:
                trainer.evaluate()
        return trainer.evaluate()["explained/boundary"]

    assert explained(3) > explained(0) + 0.05


def test_the_auxiliary_model_sees_the_output_alone():
    units = 4
    model = OfOutput(units, (3,), out_features=2 * units, batch_norm=False)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    message, other = torch.randn(2, 2, 5, units + 6)
    mixed = torch.cat([message[..., :units], other[..., units:]], dim=-1)
    assert model(message).shape == (2, 5, 2 * units)
    assert torch.equal(model(mixed), model(message))
    assert not torch.equal(model(other), model(message))
