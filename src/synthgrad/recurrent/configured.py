"""The options of a bridge, refused where they are wrong whenever they are set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from synthgrad import _checks
from synthgrad.feedback import Feedback
from synthgrad.recurrent import arguments
from synthgrad.recurrent.carried import Carried
from synthgrad.recurrent.layout import BatchDim


class Configured(Carried):
    """A bridge without its calls. The arguments are :class:`RecurrentInterface`'s.

    Raises:
        ArgumentError: an argument is not of its kind or outside its range.
    """

    def __init__(
        self,
        feedback: Feedback,
        scale: float,
        auxiliary: Feedback | None,
        last_core: Callable[..., Tensor] | None,
        feedback_into_core: bool,
        reduction: str,
        batch_dim: int | Sequence[int] | None,
        name: str | None,
        check_finite: bool,
    ) -> None:
        super().__init__()
        arguments.check_feedback(feedback, auxiliary)
        arguments.check_reduction(reduction)
        self.name = None if name is None else _checks.text("name", name)
        self.feedback = feedback
        self.auxiliary = auxiliary
        self.scale = scale
        arguments.check_last_core(last_core, feedback_into_core, feedback, auxiliary)
        self._last_core = (last_core,)  # in a tuple: the core is no part of this module
        self.feedback_into_core = feedback_into_core
        self.reduction = reduction
        self.batch_dim: BatchDim = arguments.check_batch_dim(batch_dim)
        self.check_finite = _checks.flag("check_finite", check_finite)

    @property
    def scale(self) -> float:
        """What the synthetic error is multiplied by where it is consumed.

        Raises:
            ArgumentError: it is set to something else than a finite number of at least 0.
        """
        return self._scale

    @scale.setter
    def scale(self, scale: float) -> None:
        with arguments.naming(self):
            arguments.check_scale(scale)
        self._scale = scale

    @property
    def last_core(self) -> Callable[..., Tensor] | None:
        """Computes the message of a chunk's last step again."""
        return self._last_core[0]

    @property
    def label(self) -> str:
        """How error messages call this interface."""
        if self.name is not None:
            return f"recurrent interface {self.name!r}"
        return f"recurrent interface {type(self.feedback).__name__}({self.feedback.extra_repr()})"

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        name = "" if self.name is None else f"{self.name!r}, "
        return f"{name}scale={self.scale}, reduction={self.reduction!r}"
