"""Puts interfaces into any ``nn.Module`` and takes them out again."""

from __future__ import annotations

import difflib
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from synthgrad import _checks
from synthgrad._sandbox import preserved
from synthgrad.errors import (
    ArgumentError,
    ContextError,
    LockingError,
    ShapeError,
    SynthgradError,
)
from synthgrad.feedback import MLP, Conv, Feedback, Linear, Regression
from synthgrad.interface import Interface

FeedbackFactory = Callable[[Tensor], Feedback]
InputFactory = Callable[[Tensor, Tensor], Regression]
CHILD = "interface"
"""The name under which a cut submodule holds its interface."""


def decouple(
    model: nn.Module,
    at: str | Sequence[str],
    feedback: str | FeedbackFactory,
    *,
    context: int = 0,
    lambda_: float | Callable[[int], float] = 0.0,
    example_inputs: Any = None,
    reduction: str = "mean",
    batch_dim: int | None = None,
    check_finite: bool | Literal["later"] = True,
    inputs: InputFactory | None = None,
) -> nn.Module:
    """Puts an interface behind each of the named submodules, in place.

    The interface becomes a child, called ``interface``, of the submodule whose output it cuts. So
    the model's own ``state_dict`` keys stay as they are, and those of the interface behind
    ``encoder.2`` begin with ``encoder.2.interface.feedback``. Feedback models are made on the
    device and in the dtype of their messages.

    Args:
        model: any module. Cutting where every path passes (behind a residual block, not inside)
            makes it fit for :class:`synthgrad.Unlocked` as well.
        at: names of submodules, as ``model.named_modules()`` gives them.
        feedback: "linear", "mlp" or "conv" with the paper's sizes, or a function of a message
            that returns a feedback model for it.
        context: the number of classes, or the width of a context row, that "linear", "mlp" and
            "conv" see besides the message; 0 for none.
        lambda_: as for :class:`synthgrad.Interface`.
        example_inputs: one tensor, a tuple of positional arguments or a mapping of keyword
            arguments. One forward pass with them, which leaves no trace, tells the messages'
            sizes. Without them, sizes are read off the layers themselves where those tell.
        reduction: as for :class:`synthgrad.Interface`.
        batch_dim: as for :class:`synthgrad.Interface`: 1 for "time batch features". It has to be
            said where a named submodule holds one with ``batch_first=False``; else it is 0.
        check_finite: as for :class:`synthgrad.Interface`.
        inputs: a function of the network's input (``example_inputs``, one tensor) and a message
            that returns a model of the one by the other, such as a
            :class:`synthgrad.inputs.SyntheticInput`, for :class:`synthgrad.FullyUnlocked`.

    Returns:
        ``model`` itself.

    Raises:
        ArgumentError: a name does not exist, is cut already, or cannot be cut; or the feedback is
            unknown; or a size can only be found by a forward pass and there are no
            ``example_inputs``; or ``batch_dim`` is wanted.
        LockingError: the model is wrapped for data-parallel training already.
        ShapeError: a submodule returns no tensor, or a message does not suit the feedback.
    """
    _checks.module("model", model)
    names = [at] if isinstance(at, str) else _checks.sequence("at", at)
    for name in names:
        _checks.text("at", name)
    context = _checks.integer("context", context, 0)
    if batch_dim is not None:
        batch_dim = _checks.integer("batch_dim", batch_dim)
    _checks.functions(inputs=inputs)
    if isinstance(example_inputs, Mapping):
        for name in example_inputs:
            _checks.text("a name in example_inputs", name)
    senders = {name: _sender(model, name) for name in names}
    if not senders:
        raise ArgumentError("at must name at least one submodule, got none")
    for name, sender in senders.items():
        twin = next(other for other, module in senders.items() if module is sender)
        if twin != name:
            raise ArgumentError(f"submodules {twin!r} and {name!r} are the same module")
    _refuse_wrapped(model)
    _check_batch_dim(senders, batch_dim)
    make = _factory(feedback, context)
    settings = {
        "lambda_": lambda_,
        "reduction": reduction,
        "batch_dim": batch_dim or 0,
        "check_finite": check_finite,
    }
    if example_inputs is None:
        if not isinstance(feedback, str):
            raise ArgumentError("a feedback function needs example_inputs to be given a message")
        messages = {name: _guess(model, name, feedback) for name in senders}
    else:
        messages = _messages(model, senders, example_inputs)
    made: dict[str, Interface] = {}
    for name, message in messages.items():
        if isinstance(feedback, str) and example_inputs is not None:
            message = _batch_first(name, message, batch_dim or 0)
        made[name] = _interface(name, message, make, settings)
        made[name].cut_behind(senders[name])
        if inputs is not None:
            made[name].inputs = _input(name, example_inputs, message, inputs)
    # Only now, when nothing can fail any more, is the model changed.
    for name, sender in senders.items():
        sender.add_module(CHILD, made[name])
        if not _runs_children(sender):
            sender.register_forward_hook(_cut)
    return model


def recouple(model: nn.Module) -> nn.Module:
    """Takes out, in place, every interface that :func:`decouple` put in.

    Returns:
        ``model`` itself, with its trained weights and its ``state_dict`` keys as before.
    """
    for module in _checks.module("model", model).modules():
        if isinstance(module._modules.get(CHILD), Interface) and not isinstance(module, Interface):
            ours = [key for key, hook in module._forward_hooks.items() if hook is _cut]
            if ours or _runs_children(module):
                del module._modules[CHILD]
            for key in ours:
                del module._forward_hooks[key]
    return model


def _cut(module: nn.Module, _: Any, output: Any) -> Any:
    # A plain function, so that copies and pickles of a model carry it without a reference back.
    return module._modules[CHILD](output)  # type: ignore[misc]


def _runs_children(module: nn.Module) -> bool:
    """Whether a last child simply runs last, which is all that an interface has to do."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _sender(model: nn.Module, name: str) -> nn.Module:
    named = dict(model.named_modules(remove_duplicate=False))
    if name not in named or not name:
        near = difflib.get_close_matches(name, [n for n in named if n], n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ArgumentError(f"{type(model).__name__} has no submodule {name!r}{hint}")
    module = named[name]
    if CHILD in module._modules:
        raise ArgumentError(f"submodule {name!r} already has an interface")
    if isinstance(module, Interface):
        raise ArgumentError(f"submodule {name!r} is itself an interface")
    iterated = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    if iterated and not _runs_children(module):
        raise ArgumentError(
            f"cannot cut behind {name!r}: a {type(module).__name__} runs its children by itself; "
            "name a module inside or after it"
        )
    return module


def _factory(feedback: str | FeedbackFactory, context: int) -> FeedbackFactory:
    if callable(feedback):
        if context:
            raise ArgumentError(
                f"context={context} sizes the built-in feedback models; a feedback function "
                "has to size its own"
            )
        return feedback
    factories: dict[str, FeedbackFactory] = {
        "linear": lambda h: Linear(h.shape[-1], context=context),
        "mlp": lambda h: MLP(h.shape[-1], context=context),
        "conv": lambda h: Conv(h.shape[1], context=context),
    }
    if not isinstance(feedback, str) or feedback not in factories:
        raise ArgumentError(
            f"feedback must be one of {', '.join(map(repr, factories))} or a function of a "
            f"message, got {_checks.came(feedback)}"
        )
    ranks = {"linear": (2, 3), "mlp": (2, 3), "conv": (4,)}[feedback]

    def make(h: Tensor) -> Feedback:
        if h.ndim not in ranks:
            raise ShapeError(
                f'"{feedback}" expects a message of {" or ".join(map(str, ranks))} dimensions, '
                f"got {tuple(h.shape)}"
            )
        return factories[feedback](h)

    return make


def wrapper_kinds() -> tuple[type, ...]:
    """The wrappers that reduce gradients over ranks, as far as this process has imported them."""
    # FSDP takes half a second to import; whoever wrapped a model has.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    names = ("FSDPModule", "FullyShardedDataParallel")
    found = [getattr(fsdp, name) for name in names if hasattr(fsdp, name)]
    return (DistributedDataParallel, *found)


def _refuse_wrapped(model: nn.Module) -> None:
    """Refuses models whose data-parallel wrapper would not know of the feedback models.

    Their gradients would not be reduced, and ranks would drift apart.
    """
    kinds = wrapper_kinds()
    found = next((m for m in model.modules() if isinstance(m, kinds)), None)
    if found is None and distributed.is_available() and distributed.is_initialized():
        # What is inside a wrapper does not know of it; and this happens once, before training.
        wrappers = (m for m in gc.get_objects() if issubclass(type(m), kinds))
        inside = set(model.modules())
        found = next((m for m in wrappers if inside & set(m.modules())), None)
    if found is not None:
        raise LockingError(
            f"{type(model).__name__} is wrapped by {type(found).__name__} already, which would not "
            "reduce the gradients of feedback models that come after it, so ranks would drift "
            "apart; expected decouple() first, on the model of each rank, and then the wrapper"
        )


def _check_batch_dim(senders: Mapping[str, nn.Module], batch_dim: int | None) -> None:
    if batch_dim is not None:
        return
    for name, sender in senders.items():
        if any(getattr(module, "batch_first", None) is False for module in sender.modules()):
            raise ArgumentError(
                f"interface {name!r}: its submodule holds one with batch_first=False, so the batch "
                "may be the second axis of its message; expected batch_dim=1 for messages (time, "
                "batch, features), or batch_dim=0 for (batch, ...)"
            )


def _batch_first(name: str, message: Tensor, batch_dim: int) -> Tensor:
    if not -message.ndim <= batch_dim < message.ndim:
        raise ShapeError(
            f"interface {name!r}: batch_dim={batch_dim} is no axis of its message of shape "
            f"{tuple(message.shape)}"
        )
    return message.movedim(batch_dim, 0)


def _interface(
    name: str, message: Tensor, make: FeedbackFactory, settings: dict[str, Any]
) -> Interface:
    try:
        feedback = make(message)
        if isinstance(feedback, nn.Module):
            feedback = feedback.to(message.device, message.dtype)
        return Interface(feedback, name=name, **settings)
    except SynthgradError as error:
        raise type(error)(f"interface {name!r}: {error}") from error


def _input(name: str, example: Any, message: Tensor, make: InputFactory) -> Regression:
    if not isinstance(example, Tensor):
        raise ArgumentError(
            "synthetic inputs need example_inputs to be the one tensor that they are predicted "
            f"from, got {type(example).__name__}"
        )
    made = make(example, message)
    if not isinstance(made, Regression):
        raise ArgumentError(
            "inputs must return a model such as synthgrad.inputs.SyntheticInput, got "
            f"{type(made).__name__}"
        )
    made = made.to(message.device, message.dtype)
    try:
        # Twice, since batch norm in training wants more than one example.
        with torch.no_grad(), preserved(made):
            shape = made(torch.cat([example, example]))[: len(example)].shape
    except ContextError:  # there is none yet; a prediction of another shape is refused later
        return made
    except ShapeError as error:
        raise ShapeError(f"interface {name!r}, its synthetic input model: {error}") from error
    if shape != message.shape:
        raise ShapeError(
            f"interface {name!r}: its synthetic input model predicts {tuple(shape)}, the message "
            f"is {tuple(message.shape)}"
        )
    return made


def _messages(
    model: nn.Module, senders: Mapping[str, nn.Module], example_inputs: Any
) -> dict[str, Tensor]:
    """What each sender returns in one forward pass with the example."""
    seen: dict[str, Any] = {}

    def record(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: seen.update({name: output})

    hooks = [sender.register_forward_hook(record(name)) for name, sender in senders.items()]
    try:
        with torch.no_grad(), preserved(model):
            if isinstance(example_inputs, Mapping):
                model(**example_inputs)
            elif isinstance(example_inputs, tuple):
                model(*example_inputs)
            else:
                model(example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for name in senders:
        if name not in seen:
            raise ArgumentError(f"submodule {name!r} did not run in the forward pass")
        output = seen[name]
        if not isinstance(output, Tensor):
            raise ShapeError(
                f"submodule {name!r} returns {type(output).__name__}, but a message is one "
                "tensor; cut behind a module that returns one, or place an Interface by hand"
            )
    return seen


def _guess(model: nn.Module, name: str, feedback: str) -> Tensor:
    """An empty message of the width that the layers around a cut tell.

    Looks from the end of the named module backwards, in order of registration, for the last layer
    that fixes a width; activations, dropout and pooling keep it. A wrong guess does not pass
    unseen: the feedback model refuses a message of another width.
    """
    named = list(model.named_modules(remove_duplicate=False))
    last = max(i for i, (n, _) in enumerate(named) if n == name or n.startswith(f"{name}."))
    for _, module in reversed(named[: last + 1]):
        width = _width(module)
        if width is not None:
            weight = next(iter(module.parameters()), torch.empty(()))
            shape = (1, width, 1, 1) if feedback == "conv" else (1, width)
            return torch.empty(shape, dtype=weight.dtype, device=weight.device)
    raise ArgumentError(
        f"the layers do not tell the size of the message behind {name!r}: pass example_inputs"
    )


def _width(module: nn.Module) -> int | None:
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    for kind, attribute in (
        (nn.Linear, "out_features"),
        (nn.modules.conv._ConvNd, "out_channels"),
        (nn.modules.batchnorm._BatchNorm, "num_features"),
        (nn.GroupNorm, "num_channels"),
        (nn.Embedding, "embedding_dim"),
    ):
        if isinstance(module, kind):
            return int(getattr(module, attribute))
    return None


def named_interfaces(model: nn.Module, reserved: Sequence[str] = ()) -> dict[Interface, str]:
    """The interfaces in a model, each with its name, or with its path where that tells more.

    A name tells nothing if there is none, if several share it, as when parts that were decoupled
    one by one are put together, or if it is one of those ``reserved``.
    """
    paths = {m: path for path, m in model.named_modules() if isinstance(m, Interface)}
    names = [m.name for m in paths]
    return {
        m: path if m.name is None or names.count(m.name) > 1 or m.name in reserved else m.name
        for m, path in paths.items()
    }
