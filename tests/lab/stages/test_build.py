"""What a stage of a recipe is made of."""

from pathlib import Path

import pytest
import torch

from synthgrad.distributed import Stage
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.stages.build import build
from synthgrad.lab.stages.options import PipelineConfig


def _stage(folder: Path, index: int, **settings) -> Stage:
    recipe = RECIPES["digits-fcn"]
    config = recipe.settle(recipe.defaults.changed(**settings))
    return build(
        recipe,
        config,
        PipelineConfig(stages=2),
        recipe.load(None, torch.device("cpu")),
        index=index,
        store="127.0.0.1:1",
        out=folder,
        on_result=lambda step, values: None,
    )


@pytest.mark.parametrize("schedule", ["ours", "paper"])
def test_each_model_of_a_stage_has_its_rate_and_that_of_inputs_falls_in_the_papers_alone(
    tmp_path, schedule
):
    stage = _stage(
        tmp_path,
        1,
        method="cdni",
        unlock="full",
        schedule=schedule,
        iterations=10,
        learning_rate=0.1,
        feedback_learning_rate=0.2,
        input_learning_rate=0.4,
    )
    worker = stage.worker
    for step, factor in ((0, 1.0), (6, 0.1), (8, 0.01)):
        assert worker._before_step is not None
        worker._before_step(step)
        found = {
            name: float(optimizer.param_groups[0]["lr"])
            for name, optimizer in worker.learner.optimizers.items()
        }
        falls = factor if schedule == "paper" else 1.0
        expected = {"segment": 0.1 * factor, "inner": 0.2 * factor, "inputs": 0.4 * falls}
        assert found == pytest.approx(expected)
