"""Aliases for annotations; no behaviour.

The library needs only torch, so jaxtyping, which the tests use to check shapes, may be absent.
Without it every shape annotation is a plain tensor to the reader and nothing at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped
else:
    try:
        from jaxtyping import Float, Shaped
    except ModuleNotFoundError:

        class _AnyShape:
            def __class_getitem__(cls, _: Any) -> type[Tensor]:
                return Tensor

        Float = Shaped = _AnyShape

__all__ = ["Float", "Shaped", "Tensor"]
