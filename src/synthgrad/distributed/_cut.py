"""From a model to the segments of a pipeline, which share nothing that training changes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from synthgrad import _checks
from synthgrad._sharing import Held, find_overlap, held
from synthgrad.errors import ArgumentError, LockingError


def cut(model: nn.Sequential, stages: int | Sequence[int]) -> list[nn.Sequential]:
    """Cuts a sequence of modules into segments, which share its parameters.

    Args:
        model: the sequence.
        stages: how many segments, as equal in parameters as whole modules allow; or how many
            modules each gets.

    Raises:
        ArgumentError: the numbers do not add up to the modules, or a segment would be empty.
        LockingError: two segments would share a parameter, a buffer or memory, as tied weights do.
    """
    if not isinstance(model, nn.Sequential):
        raise ArgumentError(f"model must be a torch.nn.Sequential, got {_checks.came(model)}")
    children = list(model)
    if not isinstance(stages, Sequence):
        sizes = even(children, _checks.integer("stages", stages))
    else:
        sizes = _checks.sizes("the segments' sizes", stages, least=0)
        if not sizes or min(sizes) < 1 or sum(sizes) != len(children):
            raise ArgumentError(
                f"the segments' sizes must be positive and add up to the {len(children)} modules "
                f"of the model, got {sizes}"
            )
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    names = list(model._modules)
    refuse_shared(
        [
            [
                one
                for place in range(end - size, end)
                for one in held(children[place], f"segment {index}", f"{names[place]}.{{}}".format)
            ]
            for index, (size, end) in enumerate(zip(sizes, ends, strict=True))
        ]
    )
    return [
        nn.Sequential(*children[end - size : end]) for size, end in zip(sizes, ends, strict=True)
    ]


def even(modules: Sequence[nn.Module], stages: int) -> list[int]:
    """How many modules each of so many segments gets, for about the same number of parameters.

    Raises:
        ArgumentError: there are fewer modules with parameters than segments.
    """
    weights = [sum(p.numel() for p in module.parameters()) for module in modules]
    room = sum(weight > 0 for weight in weights)
    if not 1 <= stages <= room:
        raise ArgumentError(f"{room} modules with parameters make 1 to {room} stages, got {stages}")
    # best[n][i]: the smallest largest segment of the first i modules in n segments, and its start.
    total = [sum(weights[:i]) for i in range(len(weights) + 1)]
    best = [[(float("inf"), 0)] * (len(weights) + 1) for _ in range(stages + 1)]
    best[0][0] = (0.0, 0)
    for n in range(1, stages + 1):
        for end in range(1, len(weights) + 1):
            for start in range(end):
                if total[end] == total[start]:
                    continue  # nothing to learn in it
                largest = max(best[n - 1][start][0], total[end] - total[start])
                best[n][end] = min(best[n][end], (largest, start))
    sizes, end = [], len(weights)
    for n in range(stages, 0, -1):
        start = best[n][end][1]
        sizes.append(end - start)
        end = start
    return sizes[::-1]


def refuse_shared(stages: Sequence[Sequence[Held]]) -> None:
    """Looks whether what one stage changes is also part of another.

    Frozen parameters may be shared, for their copies stay the same; so may modules without tensors.

    Args:
        stages: what each holds.

    Raises:
        LockingError: two stages share a parameter, a buffer or memory; says which by name.
    """
    if (found := find_overlap(stages)) is None:
        return
    (one, other), (this, that) = found.segments, found.called
    how = "are one and the same" if found.same else "lie in the same memory"
    raise LockingError(
        f"segments {one} and {other} cannot be apart: {this} and {that} {how}; in processes of "
        "their own each would go on with its own copy. Keep both in one segment, or give each its "
        "own"
    )
