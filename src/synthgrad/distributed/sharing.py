"""What two stages may not share: each works in a process of its own, on its own copy."""

from __future__ import annotations

from collections.abc import Sequence

from synthgrad._sharing import Held, find_overlap
from synthgrad.errors import LockingError


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
