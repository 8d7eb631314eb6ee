"""How a pass through a network is run: nothing trained meanwhile, dropout off, a number type."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from influence.errors import InputError
from llm_influence.sharded import is_sharded, reshard


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Parameters frozen and dropout off; as before on leaving. Checkpointing stays on.

    Parameters spread by `fully_shard` cannot be frozen for a while: their gradients are put aside.

    Raises:
        InputError: Gradients cannot be had in `torch.inference_mode`.
    """
    if torch.is_inference_mode_enabled() or any(p.is_inference() for p in model.parameters()):
        raise InputError(
            "Expected ordinary tensors, of which gradients can be taken, got a call or a model "
            "made inside torch.inference_mode(); use torch.no_grad() there, or nothing."
        )
    sharded = is_sharded(model)
    aside = [(p, p.grad) for p in model.parameters()] if sharded else []
    trained = [] if sharded else [p for p in model.parameters() if p.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    torch.backends.mha.set_fastpath_enabled(False)  # it calls no module inside
    try:
        with torch.enable_grad(), checkpointing(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training
        if sharded:
            reshard(model)
        for parameter, gradient in aside:
            parameter.grad = gradient


@contextmanager
def checkpointing(model: nn.Module) -> Iterator[None]:
    """Keeps activation checkpointing of transformers on in a model that is not in training mode.

    A layer checkpoints only where its `training` is set. It is set here, and taken away again while
    the layer's own forward pass runs, so that dropout stays off.
    """
    layers: list[Any] = [
        module
        for module in model.modules()
        if getattr(module, "gradient_checkpointing", False)
        and any(kind.__name__ == "GradientCheckpointingLayer" for kind in type(module).__mro__)
    ]
    own = [layer._gradient_checkpointing_func for layer in layers]
    for layer in layers:
        layer.training = True
        layer._gradient_checkpointing_func = _in_evaluation(
            layer, layer._gradient_checkpointing_func
        )
    entry: Any = getattr(model, "get_input_embeddings", None)
    hook = entry().register_forward_hook(_start) if layers and entry is not None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
        for layer, function in zip(layers, own, strict=True):
            layer._gradient_checkpointing_func = function


def _in_evaluation(layer: nn.Module, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    def checkpointed(forward: Callable[..., Any], *args: Any) -> Any:
        def run(*inner: Any) -> Any:
            layer.training = False
            try:
                return forward(*inner)
            finally:
                layer.training = True

        return checkpoint(run, *args)

    return checkpointed


def _start(module: nn.Module, inputs: Any, output: Tensor) -> None:
    """Reentrant checkpointing gives gradients only where its input requires one."""
    if torch.is_grad_enabled() and not output.requires_grad:
        output.requires_grad_(True)


def precision(model: nn.Module, autocast: torch.dtype | None) -> AbstractContextManager[Any]:
    """The number type of a forward pass."""
    if autocast is None:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, autocast)
