"""Curvature of tiny models as dense matrices: Kronecker factors, their eigenbases, Gauss-Newton.

One example at a time, without padding; every gradient is written out and every matrix formed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Array = Any  # of float64


def layer_sides(
    model: nn.Module, losses: Sequence[Callable[[], Tensor]], name: str
) -> list[tuple[Array, Array]]:
    """Inputs and output gradients of a layer for each loss, tokens without gradient left out."""
    module = dict(model.named_modules())[name]
    kept: dict[str, Tensor] = {}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept["a"], kept["z"] = inputs[0], output

    found = []
    handle = module.register_forward_hook(hook)
    for loss in losses:
        value = loss()
        (b,) = torch.autograd.grad(value, kept["z"])
        a, b = kept["a"].detach(), b.reshape(-1, b.shape[-1])
        if not a.is_floating_point():
            a = nn.functional.one_hot(a.flatten(), module.num_embeddings).to(b)  # pyright: ignore
        a = a.reshape(-1, a.shape[-1])
        if getattr(module, "bias", None) is not None:
            a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)
        alive = (b != 0).any(1)
        found.append((a[alive].numpy(), b[alive].numpy()))
    handle.remove()
    return found


def factors(sides: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """A = sum_t a a^T / N and S = sum_t b b^T / n, term by term."""
    n_tokens = sum(len(a) for a, _ in sides)
    first = sum(np.outer(a, a) for many, _ in sides for a in many) / n_tokens
    second = sum(np.outer(b, b) for _, many in sides for b in many) / len(sides)
    return np.asarray(first), np.asarray(second)


def kfac(outer: Array, inner: Array) -> Array:
    """Dense curvature of the row-major gradient of an (n_out, n_in) matrix."""
    return np.kron(outer, inner)


def ekfac(outer: Array, inner: Array, gradients: Array) -> Array:
    """The same with eigenvalues measured on gradients, shape (n, n_out, n_in)."""
    q_outer, q_inner = np.linalg.eigh(outer)[1], np.linalg.eigh(inner)[1]
    turned = np.stack([q_outer.T @ g @ q_inner for g in gradients])
    basis = np.kron(q_outer, q_inner)
    return basis @ np.diag((turned**2).mean(0).ravel()) @ basis.T


def influence(train: Array, query: Array, curvature: Array, damping: float) -> Array:
    """(1 / n) g_q^T (H + damping * mean eigenvalue)^-1 g_i of one block, (n_train, n_queries)."""
    size = len(curvature)
    ridge = damping * np.trace(curvature) / size
    return train @ np.linalg.solve(curvature + ridge * np.eye(size), query.T) / len(train)


def gauss_newton(
    outputs: Callable[[dict[str, Tensor]], Tensor],
    parameters: dict[str, Tensor],
    curved: Callable[[Tensor], Tensor],
) -> Array:
    """J^T H J of one example, J written out by rows.

    Args:
        outputs: From parameters to outputs, any shape.
        parameters: The point.
        curved: From outputs to the dense Hessian of the loss by the flat outputs.
    """
    found = outputs(parameters)
    rows = []
    for one in found.flatten():
        row = torch.autograd.grad(
            one, list(parameters.values()), retain_graph=True, allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        rows.append(torch.cat([part.flatten() for part in row]))
    jacobian = torch.stack(rows).detach()
    return (jacobian.T @ curved(found.detach()) @ jacobian).numpy()


def softmax_hessian(logits: Tensor, weights: Tensor) -> Tensor:
    """Block diagonal of w_t (diag(p) - p p^T), logits of shape (n_places, n_outputs)."""
    p = logits.softmax(-1)
    each = [w * (torch.diag(q) - torch.outer(q, q)) for w, q in zip(weights, p, strict=True)]
    return torch.block_diag(*each)


def finite_gauss_newton(
    model: nn.Module,
    examples: Sequence[dict[str, Any]],
    left: dict[str, Tensor],
    right: dict[str, Tensor],
    step: float = 1e-5,
) -> float:
    """left^T H right of the mean loss of texts or classes, J by finite differences."""
    model.eval()
    total = 0.0
    for example in examples:
        ids, labels = torch.as_tensor(example["input_ids"])[None], example["labels"]

        def logits(ids: Tensor = ids, labels: Any = labels) -> Tensor:
            with torch.no_grad():
                found = model(input_ids=ids).logits[0]
            if isinstance(labels, int):
                return found[None]
            return found[[t - 1 for t in range(1, len(labels)) if labels[t] != -100]]

        along = []
        for direction in (left, right):
            ends = []
            for sign in (step, -step):
                _shift(model, direction, sign)
                ends.append(logits())
                _shift(model, direction, -sign)
            along.append((ends[0] - ends[1]).flatten() / (2 * step))
        z = logits()
        weights = torch.full((len(z),), 1 / len(z), dtype=z.dtype)
        total += float(along[0] @ softmax_hessian(z, weights) @ along[1])
    return total / len(examples)


def _shift(model: nn.Module, direction: dict[str, Tensor], by: float) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in direction:
                parameter += by * direction[name]


def segmented(
    rows: list[Array], query: Array, curvatures: list[Array], rates: list[float]
) -> Array:
    """Unrolled differentiation over segments, by dense matrix exponentials.

    Args:
        rows: Mean gradient of each training example in each segment, shape (n_train, size).
        query: Gradients of queries at the end, shape (n_queries, size).
        curvatures: Curvature of each segment, shape (size, size).
        rates: Step on one example's own loss over each segment.
    """
    from scipy.linalg import expm

    n_train, size = rows[0].shape
    moved = np.zeros((n_train, size))  # d theta / d weight, carried forward
    for gradients, curvature, rate in zip(rows, curvatures, rates, strict=True):
        tau = rate * n_train
        kept = expm(-tau * curvature)
        inside = (
            expm(
                np.block(
                    [
                        [-tau * curvature, np.eye(size)],
                        [np.zeros((size, size)), np.zeros((size, size))],
                    ]
                )
            )[:size, size:]
            * tau
        )  # integral of exp(-s H) over s in (0, tau)
        moved = moved @ kept.T - gradients @ inside.T / n_train
    return -moved @ query.T


def flat_gradients(
    model: nn.Module, losses: Sequence[Callable[[], Tensor]], names: Sequence[str]
) -> list[Any]:
    """Gradient of each loss by some parameters, flat and end to end."""
    named = dict(model.named_parameters())
    found = []
    for loss in losses:
        parts = torch.autograd.grad(loss(), [named[name] for name in names])
        found.append([part.detach().numpy() for part in parts])
    return found
