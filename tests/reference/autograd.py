"""Gradients of networks by autograd alone, one example at a time, without padding or hooks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def loss_of(model: nn.Module, example: dict[str, Any]) -> Tensor:
    """Mean negative log likelihood of the targets of a text, or of its class."""
    ids = torch.as_tensor(example["input_ids"])[None]
    labels = torch.as_tensor(example["labels"])
    logits = model(input_ids=ids).logits
    if labels.dim() == 0:
        return F.cross_entropy(logits, labels[None])
    kept = [t for t in range(1, len(labels)) if labels[t] != -100]
    chosen = [-logits[0, t - 1].log_softmax(-1)[labels[t]] for t in kept]
    return torch.stack(chosen).mean()


def gradient(model: nn.Module, example: dict[str, Any]) -> dict[str, Tensor]:
    """Gradient of one example's loss by every trained parameter, by name."""
    model.eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(
        loss_of(model, example), list(named.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(named, found, strict=True))


def flat(model: nn.Module, examples: list[dict[str, Any]]) -> Tensor:
    """Gradients of examples, one row each, parameters in the order of the model."""
    return torch.stack(
        [torch.cat([g.flatten() for g in gradient(model, e).values()]) for e in examples]
    ).detach()
