"""`TrainingPasses`: the rows of a batch's examples, from the Trainer's own pass over it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from influence.errors import InputError, NotYetSupportedError
from llm_influence.gradients import Gradients, projected
from llm_influence.layers import Sides
from llm_influence.losses import IGNORED, causal_lm
from llm_influence.projection import Bound
from llm_influence.run import CheckpointRun
from llm_influence.trainer_batches import ROW

TOLERANCE = 1e-3  # between the model's loss and the one of its logits


@dataclass(eq=False)
class Batch:
    """What is known of the batch that is on its way through the model.

    Attributes:
        rows: Positions of its examples, shape (n_examples,).
        targets: Target tokens of each, 1 for a class, shape (n_examples,).
        found: The sides of its gradients.
        divisor: What the model's loss divides the sum over all targets by.
        scale: Gradient of what was differentiated, by the model's loss.
    """

    rows: Tensor
    targets: Tensor
    found: Mapping[str, list[Sides]]
    divisor: float = 0.0
    scale: float | None = None

    def note(self, gradient: Tensor) -> None:
        self.scale = float(gradient)


class TrainingPasses:
    """Watches the passes of a model in training; evaluation passes are let through.

    The Trainer's gradient is that of scale x sum_i (sum of losses of i's targets) / divisor. Where
    transformers knows all targets of the accumulated batches, divisor is their number; else it is
    that of the batch and scale holds 1 / batches. So the gradient of example i's own mean loss is
    its share of the Trainer's, times divisor / (targets of i x scale).

    Args:
        run: The model, with its layers and loss.
        bound: The projection.
        n_batches: Batches of one optimiser step.
    """

    def __init__(self, run: CheckpointRun, bound: Bound, n_batches: int) -> None:
        self._run = run
        self._bound = bound
        self._n_batches = n_batches
        self._gradients = Gradients(
            run.model, run.coverage.layers, bound.reduce, None, training=True
        )
        self._hooks: list[Any] = []
        self._batch: Batch | None = None
        self._by_given: bool | None = None  # whether the model divides by num_items_in_batch

    def start(self) -> None:
        """Hangs the hooks into the model."""
        self._gradients.__enter__()
        model = self._run.model
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]

    def stop(self) -> None:
        """Takes the hooks out."""
        if self._hooks:
            self._gradients.__exit__()
        while self._hooks:
            self._hooks.pop().remove()

    def take(self) -> tuple[Tensor, Tensor]:
        """Positions of the last batch's examples and their rows, (n_examples, width).

        Raises:
            InputError: No pass was seen.
        """
        batch, self._batch = self._batch, None
        self._gradients.watch(0)
        if batch is None or batch.scale is None:
            raise InputError(
                "Expected a training pass over numbered examples, saw none: attach(trainer) must "
                "come after all changes to the Trainer's dataset, collator and model."
            )
        like = next(self._run.model.parameters()).new_zeros(0)
        rows = projected(batch.found, self._bound, None, len(batch.rows), like)
        factor = batch.divisor / (batch.targets.clamp_min(1) * batch.scale)
        return batch.rows.cpu(), rows * factor[:, None].to(rows)

    def _before(
        self, model: Any, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rows = named.pop(ROW, None)
        if rows is None or not model.training or not torch.is_grad_enabled():
            self._gradients.watch(0)
            return args, named
        labels = named.get("labels")
        if labels is None or len(labels) != len(rows):
            raise InputError(
                f"Expected labels of the {len(rows)} examples of a batch, got "
                f"{None if labels is None else tuple(labels.shape)}; packing several examples into "
                "one row is not supported."
            )
        if self._run.loss is causal_lm:
            targets = (labels[:, 1:] != IGNORED).sum(1)
        else:
            targets = (labels != IGNORED).long()
        self._batch = Batch(rows, targets, self._gradients.watch(len(rows)))
        return args, named

    def _after(self, model: Any, args: Any, named: Mapping[str, Any], output: Any) -> None:
        batch = self._batch
        if batch is None or not torch.is_grad_enabled():
            return
        loss = output["loss"] if isinstance(output, Mapping) else output[0]
        given = named.get("num_items_in_batch")
        own = float(batch.targets.sum())
        given = own if given is None else float(given)
        if self._by_given is None:
            self._choose_divisor(named["labels"], output, float(loss.detach()), given, own)
        batch.divisor = own if self._by_given is False else given
        loss.register_hook(batch.note)

    @torch.no_grad()
    def _choose_divisor(
        self, labels: Tensor, output: Any, loss: float, given: float, own: float
    ) -> None:
        """Finds what the model divides by, and that its loss is one that is known."""
        logits = output["logits"] if isinstance(output, Mapping) else output[1]
        if self._run.loss is causal_lm:
            logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        total = float(F.cross_entropy(logits.float(), labels, reduction="sum"))
        fits = [
            abs(total / divisor - loss) <= TOLERANCE * max(abs(loss), TOLERANCE)
            for divisor in (given, own)
        ]
        if not any(fits):
            raise NotYetSupportedError(
                f"Expected the model's loss to be the sum of negative log likelihoods over "
                f"{given:g} or {own:g} targets, {total / given:.6g} or {total / own:.6g}, got "
                f"{loss:.6g}: it has another term, or other weights."
            )
        if fits[0] != fits[1] or self._n_batches == 1:
            self._by_given = fits[0]
