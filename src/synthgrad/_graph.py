"""Walks over autograd's graph, from a tensor towards its leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def nodes_below(tensor: Tensor, stop: Callable[[Any], bool] = lambda _: False) -> Iterator[Any]:
    """Every node that ``tensor`` depends on, once each, breadth first.

    Args:
        tensor: where to start; a leaf yields nothing.
        stop: a node for which this is true is yielded, but not what lies below it; asked after
            the node was yielded.
    """
    seen = {tensor.grad_fn}
    queue = [tensor.grad_fn] if tensor.grad_fn is not None else []
    for node in queue:
        yield node
        if not stop(node):
            fresh = [n for n, _ in node.next_functions if n is not None and n not in seen]
            # The same node may appear twice among the inputs of one operation.
            queue += list(dict.fromkeys(fresh))
            seen.update(fresh)


def leaf_of(node: Any) -> Tensor | None:
    """The leaf tensor that an accumulation node belongs to, or None for any other node."""
    return getattr(node, "variable", None)


def current_walk() -> int | None:
    """The backward pass that this is called from, None outside of any."""
    # As torch.utils.checkpoint itself tells them apart; there is no public way.
    number = torch._C._current_graph_task_id()
    return None if number < 0 else number
