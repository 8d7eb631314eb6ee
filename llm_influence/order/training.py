"""The operations of one training step: the same ones when a run is recorded and when repeated."""

import torch
from torch import Tensor, nn


def share(losses: Tensor, weights: Tensor | None, n_parts: int) -> Tensor:
    """What one of `n_parts` batches adds to the loss of a step: its (weighted) mean / n_parts.

    Args:
        losses: Of each example, shape (n_examples,).
        weights: Of each example; None for ones.
        n_parts: Batches of the step.
    """
    mean = losses.mean() if weights is None else (weights * losses).sum() / len(losses)
    return mean / n_parts if n_parts > 1 else mean


def step(model: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float | None) -> None:
    """Clips, moves the weights, and forgets the gradients.

    The norm is taken over the optimizer's parameters in the order of the model, on which its last
    bits depend: so do the usual loops, which clip model.parameters().
    """
    if max_grad_norm is not None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        moved = [p for p in model.parameters() if id(p) in held]
        torch.nn.utils.clip_grad_norm_(moved, max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def mark(model: nn.Module) -> bytes:
    """Sums of the bits of every parameter and buffer: a change of any one number shows."""
    held = [*model.parameters(), *model.buffers()]
    return torch.stack([_bits(tensor).sum() for tensor in held]).cpu().numpy().tobytes()


def _bits(tensor: Tensor) -> Tensor:
    of_size = {1: torch.int8, 2: torch.int16, 4: torch.int32}
    kind = of_size.get(tensor.element_size(), torch.int64)
    return tensor.detach().contiguous().view(-1).view(kind)
