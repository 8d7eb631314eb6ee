"""`Derivatives`: losses of a batch at any weights, gradients and Hessian-vector products.

Plain autograd on a copy of the model, whose parameters are set to the weights asked about.
Attention runs by its plain formula, which can be differentiated twice.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_influence.gradients import Loss
from llm_influence.order.flat import Flat

TOGETHER = 8  # directions of one vectorised pass, which holds as many copies of what it computes


@dataclass(frozen=True, eq=False)
class Linearised:
    """The gradient of a batch at some weights, and what its derivatives multiply.

    Attributes:
        gradient: Of the sum of share times loss, shape (n,).
        products: From directions, shape (k, n), to Hessian times direction, shape (k, n), and to
            the gradient of each example's loss times direction, shape (k, n_examples).
    """

    gradient: Tensor
    products: Callable[[Tensor], tuple[Tensor, Tensor]]


class Derivatives:
    """Of the losses of one model.

    Cost: `losses` one forward pass, `gradient` one forward and backward pass, each direction of
    `products` about one more of these.
    """

    def __init__(self, model: nn.Module, loss: Loss, flat: Flat) -> None:
        self._model, self._loss, self._flat = copy.deepcopy(model), loss, flat
        self._parameters = flat.parameters(self._model)
        held = set(map(id, self._parameters))
        for parameter in self._model.parameters():
            parameter.requires_grad_(id(parameter) in held)
        _checkpoint_without_reentry(self._model)

    def losses(self, weights: Tensor, batch: Any) -> Tensor:
        """Loss of each example, shape (n_examples,)."""
        with self._at(weights), torch.no_grad():
            return self._loss(self._model, batch)

    def gradient(self, weights: Tensor, batch: Any, shares: Tensor | None = None) -> Tensor:
        """Gradient of the mean loss, or of the sum of share times loss, shape (n,)."""
        with self._at(weights):
            losses = self._loss(self._model, batch)
            total = losses.mean() if shares is None else (shares * losses).sum()
            return self._joined(torch.autograd.grad(total, self._parameters, allow_unused=True))

    @contextmanager
    def linearised(
        self, weights: Tensor, batch: Any, shares: Tensor | None = None
    ) -> Iterator[Linearised]:
        """Gradient and products at these weights, of the mean loss where no shares are given."""
        with self._at(weights):
            losses = self._loss(self._model, batch)
            even = torch.full_like(losses, 1 / len(losses))
            factors = (even if shares is None else shares.to(losses)).detach().requires_grad_()
            parts = torch.autograd.grad(
                (factors * losses).sum(), self._parameters, create_graph=True, allow_unused=True
            )
            gradient = self._joined(parts)

            def products(directions: Tensor) -> tuple[Tensor, Tensor]:
                some = directions.split(TOGETHER)
                both = [self._products(gradient, factors, block) for block in some]
                bent, slopes = zip(*both, strict=True)
                return torch.cat(bent), torch.cat(slopes)

            yield Linearised(gradient.detach(), products)

    def _products(self, gradient: Tensor, factors: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """Of some directions in one vectorised pass, or one by one where torch has none."""
        if len(along) > 1:
            with contextlib.suppress(RuntimeError):
                return self._product(gradient, factors, along, together=True)
        both = [self._product(gradient, factors, one, together=False) for one in along]
        bent, slopes = zip(*both, strict=True)
        return torch.stack(bent), torch.stack(slopes)

    def _product(
        self, gradient: Tensor, factors: Tensor, along: Tensor, *, together: bool
    ) -> tuple[Tensor, Tensor]:
        *bent, slopes = torch.autograd.grad(
            gradient,
            [*self._parameters, factors],
            along,
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=together,
        )
        lead = along.shape[:-1]
        none = factors.new_zeros((*lead, len(factors)))
        return self._joined(bent, lead), none if slopes is None else slopes

    def _joined(self, parts: Any, lead: Sequence[int] = ()) -> Tensor:
        """One tensor for each parameter, or None, as vectors, shape (*lead, n)."""
        found = [
            parameter.new_zeros((*lead, parameter.numel()))
            if part is None
            else part.reshape(*lead, -1)
            for parameter, part in zip(self._parameters, parts, strict=True)
        ]
        return torch.cat(found, dim=-1)

    @contextmanager
    def _at(self, weights: Tensor) -> Iterator[None]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        self._flat.write(self._model, weights)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield


def _checkpoint_without_reentry(model: Any) -> None:
    """Where transformers recomputes activations: the other kind refuses torch.autograd.grad.

    Newer versions of it warn of the name "gradient", older ones lack "activation".
    """
    for kind in ("activation", "gradient"):
        on = getattr(model, f"is_{kind}_checkpointing", None)
        if on is not None:
            if on:
                getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
            return
