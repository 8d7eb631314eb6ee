"""The built-in losses as functions of the model's outputs: their labels' law and their curvature.

| letter | meaning                                                                        |
|--------|--------------------------------------------------------------------------------|
| i      | example of a batch                                                             |
| t      | place with a target: a token, or the one place of a classifier or a regression |
| k      | output: logit or number                                                        |

The loss of an example is sum_t w_it NLL(label_it | z_it), with z the outputs and w the weight of a
place: 1 / (targets of the example) where the loss is their mean. Its Gauss-Newton matrix is

    sum_t w_it J_it^T H_it J_it,    H_it = diag(p) - p p^T for logits, I for a regression,

and, with labels drawn from the model itself, the mean of g^ g^^T, where g^ is the gradient of
sum_t sqrt(w_it) NLL(drawn label_it | z_it): draws at different places are independent.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from influence.errors import UnsupportedModelError
from llm_influence.examples import Examples
from llm_influence.gradients import Loss
from llm_influence.losses import (
    IGNORED,
    causal_lm,
    causal_lm_sum,
    classification,
    logits_of,
    regression,
)

Labels = Literal["sampled", "true"]

BUILT_IN = (causal_lm, causal_lm_sum, classification, regression)


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of a batch, and what a built-in loss makes of them.

    Attributes:
        values: Outputs z, shape (n_examples, n_places, n_outputs).
        weights: Weight of each place in its example's loss, shape (n_examples, n_places).
        labels: Classes, shape (n_examples, n_places), or numbers of the shape of `values`.
    """

    values: Tensor
    weights: Tensor
    labels: Tensor

    @property
    def _gaussian(self) -> bool:
        return self.labels.is_floating_point()

    def sampled(self, keys: Sequence[int]) -> "Outputs":
        """The same with labels drawn from the model's own distribution.

        Args:
            keys: One for each example, which decides its draws whatever its batch.
        """
        n_places, n_outputs = self.values.shape[1:]
        streams = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
        with torch.no_grad():
            if self._gaussian:
                noise = [stream.standard_normal((n_places, n_outputs)) for stream in streams]
                labels = self.values + _like(np.stack(noise), self.values)
            else:
                uniform = _like(np.stack([s.random(n_places) for s in streams]), self.values)
                below = self.values.softmax(-1).cumsum(-1)
                aim = uniform[..., None] * below[..., -1:]
                found = torch.searchsorted(below, aim, right=True)[..., 0]
                labels = found.clamp_max(n_outputs - 1)
        return replace(self, labels=labels)

    def root_losses(self) -> Tensor:
        """sum_t sqrt(w_it) NLL_it, shape (n_examples,)."""
        if self._gaussian:
            each = (self.values - self.labels).square().sum(-1) / 2
        else:
            each = F.cross_entropy(self.values.transpose(1, 2), self.labels, reduction="none")
        return (self.weights.sqrt() * each).sum(1)

    def curved(self, along: Tensor) -> Tensor:
        """w_it H_it applied to directions in output space; of the shape of `values`."""
        weighted = self.weights[..., None] * along
        if self._gaussian:
            return weighted
        p = self.values.detach().softmax(-1)
        return p * (weighted - (p * weighted).sum(-1, keepdim=True))


def outputs(loss: Loss, model: nn.Module, batch: Mapping[str, Tensor]) -> Outputs:
    """The outputs that a built-in loss is a function of."""
    if loss in (causal_lm, causal_lm_sum):
        values = logits_of(model, batch, use_cache=False)[:, :-1]
        labels = batch["labels"][:, 1:].long()
        is_target = (labels != IGNORED).to(values.dtype)
        n_targets = is_target.sum(1, keepdim=True)
        weights = is_target / n_targets if loss is causal_lm else is_target
        return Outputs(values, weights, labels.clamp_min(0))
    values = logits_of(model, batch)[:, None]
    weights = values.new_ones(len(values), 1)
    if loss is classification:
        return Outputs(values, weights, batch["labels"].long()[:, None])
    return Outputs(values, weights, batch["labels"].to(values.dtype).reshape(values.shape))


def check_built_in(loss: Loss, what: str, instead: str) -> None:
    """Refuses a loss of the user's own, whose outputs are not known."""
    if loss not in BUILT_IN:
        names = ", ".join(built_in.__name__ for built_in in BUILT_IN)
        raise UnsupportedModelError(
            f"{what} needs the model's outputs, known for the losses of llm_influence.losses "
            f"({names}), got {getattr(loss, '__name__', type(loss).__name__)}; pass one of these "
            f"to trace where it is what the model was trained with, or {instead}."
        )


def fisher_loss(loss: Loss, labels: Labels, keys: Sequence[int]) -> Loss:
    """A loss whose gradients g^ have the curvature of `loss` as their second moment.

    A loss of the user's own stands for itself (with its true labels).
    """
    if loss not in BUILT_IN:
        return loss

    def root(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        found = outputs(loss, model, batch)
        return (found.sampled(keys) if labels == "sampled" else found).root_losses()

    return root


def draw_keys(examples: Examples, seed: int, checkpoint: int = 0) -> list[int]:
    """What decides the draws of each example: seed, checkpoint and what it holds, not its place."""
    rows = range(examples.n_queries)
    return [_key(f"{seed}/{checkpoint}/{examples.content(slice(i, i + 1))}") for i in rows]


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")


def _like(array: NDArray[np.float64], tensor: Tensor) -> Tensor:
    return torch.from_numpy(array).to(tensor)
