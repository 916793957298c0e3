"""From a recipe to one of its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn

import synthgrad as sg
from synthgrad.distributed import Stage
from synthgrad.lab.data import DataSet
from synthgrad.lab.data.batches import Batches
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.feed_forward import loss_fn
from synthgrad.lab.experiments.images import FeedForwardConfig, ImageExperiment
from synthgrad.lab.experiments.rates import adam
from synthgrad.lab.stages.options import PipelineConfig


def segments(
    recipe: ImageExperiment, config: FeedForwardConfig, pipeline: PipelineConfig, data: DataSet
) -> tuple[list[nn.Sequential], list[sg.Interface]]:
    """The network that one process would train, cut into stages; its weights are the same.

    Returns:
        The segments, and the interfaces between them, which are in none.

    Raises:
        UsageError: there is no interface where the network is to be cut.
    """
    model = recipe.model(config, data)
    cut: list[nn.Sequential] = []
    between: list[sg.Interface] = []
    children = list(model.children())
    first = len(children) - config.layers  # what has nothing to learn, such as nn.Flatten
    ends = [first]
    for layers in pipeline.layers_of(config):
        ends.append(ends[-1] + layers)
    for index, (start, end) in enumerate(pairwise(ends)):
        cut.append(nn.Sequential(*children[start if index else 0 : end]))
        if end == len(children):
            break
        found = [part for part in children[end - 1].children() if isinstance(part, sg.Interface)]
        if not found:
            raise UsageError(
                f"--interfaces: stage {index} ends behind layer {end - first}, which has none; got "
                f"{config.interfaces!r}"
            )
        sg.recouple(children[end - 1])
        between.extend(found)
    return cut, between


def build(
    recipe: ImageExperiment,
    config: FeedForwardConfig,
    pipeline: PipelineConfig,
    data: DataSet,
    *,
    index: int,
    store: str,
    out: Path,
    on_result: Callable[[int, dict[str, float]], None],
) -> Stage:
    """One stage of a recipe's run.

    Args:
        recipe: the recipe.
        config: its settings, settled.
        pipeline: how it is cut.
        data: the examples, on the device.
        index: which stage.
        store: where the stages meet.
        out: the run folder.
        on_result: what the last stage calls after an evaluation.

    Raises:
        UsageError: the settings do not fit.
    """
    if not 0 <= index < pipeline.stages:
        raise UsageError(
            f"--stage: {pipeline.stages} stages are 0 to {pipeline.stages - 1}, got {index}"
        )
    if config.batch_size > len(data.train_x):
        raise UsageError(
            f"--batch-size: {config.batch_size} is more than the {len(data.train_x)} training "
            "examples"
        )
    cut, between = segments(recipe, config, pipeline, data)
    last = index == pipeline.stages - 1
    rates = config.rates(data.train_x.device)
    batches = Batches(data.train_x, data.train_y, config.batch_size, config.seed)

    full = config.unlock == "full" and index > 0
    if not last:
        between[index].inputs = None  # the next stage's
    return Stage(
        cut[index],
        index=index,
        stages=pipeline.stages,
        store=store,
        optimizer=partial(adam, rate=rates.own),
        feedback_optimizer=partial(adam, rate=rates.feedback),
        feedback=None if last else between[index],
        inputs=between[index - 1].inputs if full else None,
        input_optimizer=partial(adam, rate=rates.inputs),
        loss_fn=loss_fn if last else None,
        batches=batches.at,
        before_step=rates.at,
        evaluation=partial(evaluation_batches, data, config.batch_size),
        evaluate_every=config.eval_every,
        metric=wrong,
        on_result=on_result,
        options=pipeline.options(recipe.name, config, out),
    )


def wrong(output: Tensor, y: Tensor) -> Tensor:
    """100 for each example that is classified wrongly, so that the mean is a percentage."""
    return 100.0 * (output.argmax(dim=1) != y)


def evaluation_batches(data: DataSet, size: int) -> Iterable[tuple[Tensor, Tensor]]:
    """The test set in batches of ``size``; the last may be smaller."""
    return zip(data.test_x.split(size), data.test_y.split(size), strict=True)
