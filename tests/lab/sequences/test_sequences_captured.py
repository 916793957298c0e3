"""A recorded and replayed step of a recurrent learner equals a plain one to the last bit.

That the tape can record it at all says that the step reads nothing on the host.
"""

import copy

import pytest
import torch

from synthgrad.lab.experiments import ALL, learner
from synthgrad.lab.experiments.captured import WARM_UP
from tests.tape import TapeRecorder

SMALL = {"units": 6, "batch_size": 4, "iterations": 12, "level_every": 4, "threshold": 4.0}


@pytest.fixture
def _steps_apart():
    # The CPU's LSTM of one piece keeps a workspace that a tape does not see.
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@pytest.mark.usefixtures("_steps_apart")
@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize(
    "values",
    [
        {"method": "bptt"},
        {"method": "bptt", "clip": 0.1},
        {"method": "dni", "warmup": 6},
        {"method": "dni-aux", "auxiliary_into_core": "last", "feedback_clip": 0.1},
        {"method": "dni-aux", "feedback_into_core": True},
        {"method": "dni-aux", "auxiliary_into_core": "all", "feedback_history": 4},
    ],
    ids=str,
)
def test_a_replayed_step_is_a_plain_one(values, monkeypatch):
    recipe, recorder = ALL["repeat-copy"], TapeRecorder()
    config = recipe.defaults.changed(**(SMALL | values))
    plain = recipe.trainer(config, None, torch.device("cpu"))
    monkeypatch.setattr(learner, "recorder_for", lambda *_: recorder)
    replayed = recipe.trainer(config, None, torch.device("cpu"))
    for _ in range(12):
        plain.advance()
        replayed.advance()
    assert recorder.recorded == (2 if "warmup" in values else 1)
    assert recorder.warmed == WARM_UP * recorder.recorded
    assert replayed.evaluate() == plain.evaluate()
    assert replayed.summary() == plain.summary()
    replayed.load_state_dict(copy.deepcopy(plain.state_dict()))  # exchanges tensors: recorded anew
    for _ in range(5):
        plain.advance()
        replayed.advance()
    assert replayed.evaluate() == plain.evaluate()
