"""What `record` and its calls are checked for."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from influence.errors import InputError, TrainingDataError
from llm_influence.model_checks import check_model


def check_whole_model(model: Any) -> None:
    """Refuses what is no model, and models that are not all on one device.

    Raises:
        UnsupportedModelError: It is compiled or wrapped.
        InputError: Anything else.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"Expected a torch module as model, got a {type(model).__name__}.")
    check_model(model)
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) != 1 or devices == {"meta"}:
        raise InputError(
            "Expected a model with its parameters on one device, got "
            f"{sorted(devices) or 'no parameters'}; load it whole, and move it with model.to."
        )


def copy_of(model: nn.Module) -> nn.Module:
    """A copy of a model, its modes included.

    Raises:
        InputError: It cannot be copied.
    """
    try:
        made = copy.deepcopy(model)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"Expected a model that copy.deepcopy copies, got {error!r}; a module may keep what it "
            "computed as an attribute (call model.zero_grad() and drop it), or be wrapped by the "
            "old torch.nn.utils.weight_norm: take torch.nn.utils.parametrizations."
        ) from error
    made.zero_grad(set_to_none=True)
    return made


def modes(model: nn.Module) -> list[bool]:
    """Of every module: whether it is in training mode."""
    return [module.training for module in model.modules()]


def check_loss(loss: object) -> None:
    """Refuses what cannot be called."""
    if not callable(loss):
        raise InputError(f"Expected loss(model, batch), got a {type(loss).__name__}.")


def check_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    if scheduler is None or (callable(getattr(scheduler, "step", None)) and not plateau):
        if getattr(scheduler, "optimizer", optimizer) is not optimizer:
            raise InputError("Expected a scheduler of this optimizer, got one of another.")
        return
    raise InputError(
        f"Expected a scheduler whose step() takes nothing, got a {type(scheduler).__name__}; "
        "leave it out and set the rates of optimizer.param_groups between the calls of step."
    )


def check_shape(losses: Any) -> None:
    """Refuses what a loss returns unless it is one number for each example."""
    if not isinstance(losses, Tensor) or losses.dim() != 1 or not len(losses):
        got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise InputError(
            "Expected loss(model, batch) to return one loss for each example, of shape "
            f"(n_examples,), got {got}; return losses.mean(dim=1), not their mean over the batch."
        )


def check_losses(losses: Tensor, call: int) -> None:
    """Refuses losses that cannot be trained on.

    Raises:
        InputError: Their shape is wrong or they have no gradient.
        TrainingDataError: They are not finite.
    """
    check_shape(losses)
    if not losses.requires_grad:
        raise InputError(
            "Expected losses with a gradient, got some without; is this within torch.no_grad(), "
            "are all parameters frozen, or does the loss detach them?"
        )
    if not torch.isfinite(losses).all():
        raise TrainingDataError(
            f"Expected finite losses, got {losses.detach().tolist()[:5]} at call {call} of step; "
            "the training diverged or the batch is damaged. Lower the learning rate or clip."
        )
