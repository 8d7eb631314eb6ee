"""`CheckpointRun`: a network, the examples it was trained on, and moments of its training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from influence.checks import check_whole
from influence.errors import InputError
from influence.run import fingerprint, name_of
from llm_influence.checkpoints import (
    Checkpoint,
    as_checkpoints,
    fingerprint_of,
    loaded,
    sums_of,
)
from llm_influence.coverage import Coverage, Probe, cover, moved, names_of
from llm_influence.examples import Examples, as_examples
from llm_influence.gradients import Loss
from llm_influence.losses import default_loss
from llm_influence.model_checks import check_examples, check_model, padding_of
from llm_influence.passes import precision, still


@dataclass(frozen=True, eq=False)
class CheckpointRun:
    """The evidence about a network's training; made by `trace`.

    Attributes:
        model: The network; its weights are the last moment of training.
        examples: The training examples.
        loss: From (model, batch) to one loss for each example.
        checkpoints: Moments of training, with the rates of their steps.
        coverage: The layers whose gradients are taken.
        batch_size: Examples in one pass.
        device: Where the passes run.
        autocast: Number type of the forward pass, None for the model's own.
        stated: Facts for the provenance.
        sums: Of the model's tensors when it was traced (`checkpoints.sums_of`).
    """

    model: nn.Module
    examples: Examples
    loss: Loss
    checkpoints: tuple[Checkpoint, ...]
    coverage: Coverage
    batch_size: int
    device: torch.device
    autocast: torch.dtype | None
    stated: Mapping[str, str | float]
    sums: Mapping[str, int]

    @property
    def n_train(self) -> int:
        return self.examples.n_queries

    @property
    def train_index(self) -> pd.Index:
        return self.examples.index

    @cached_property
    def model_fingerprints(self) -> tuple[str, ...]:
        """Hash of the weights at each checkpoint."""
        return tuple(fingerprint_of(checkpoint, self.model) for checkpoint in self.checkpoints)

    @property
    def fingerprint(self) -> str:
        """Hash of weights, examples and loss."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        everything = self.examples.content(slice(0, self.n_train))
        return fingerprint(*self.model_fingerprints, everything, name_of(self.loss))

    @property
    def provenance(self) -> Mapping[str, str | float]:
        return {**self.stated, **self.examples.facts}

    def queries(self, *data: Any) -> Examples:
        """Validates query examples: as `trace` takes them, raw records where it was given some."""
        if len(data) != 1:
            raise InputError(
                f"Expected one set of examples as queries, got {len(data)} arguments; labels are "
                "part of each example."
            )
        encode = getattr(self.examples, "encoder", None)
        asked = as_examples(data[0], pad=padding_of(self.model), encode=encode)
        check_examples(self.model, self.loss, asked)
        return asked

    def train_queries(self) -> Examples:
        return self.examples

    def losses(self, queries: Examples) -> NDArray[np.float64]:
        """Loss of each query at the model's weights, shape (n_queries,)."""
        return self.losses_of(self.model, queries)

    def losses_of(self, model: nn.Module, queries: Examples) -> NDArray[np.float64]:
        """Loss of each query by another model of the same kind, shape (n_queries,)."""
        losses = np.empty(queries.n_queries)
        with still(model), torch.no_grad():
            for rows in self.batches(queries):
                batch = self.batch(queries, rows)
                with precision(model, self.autocast):
                    losses[rows] = self.loss(model, batch).double().cpu().numpy()
        return losses

    @contextmanager
    def at(self, checkpoint: int) -> Iterator[nn.Module]:
        """The model with the weights of a checkpoint; its own are back on leaving.

        Raises:
            InputError: Weights that the checkpoint leaves as they are have changed since `trace`.
        """
        with loaded(self.model, self.checkpoints[checkpoint], self.sums):
            yield self.model

    def batch(self, examples: Examples, rows: ArrayLike) -> Any:
        """Collated examples on the run's device."""
        return moved(examples.batch(rows), self.device)

    def batches(self, examples: Examples) -> Iterator[NDArray[np.int64]]:
        """Positions in batches of similar length, so that little is padded."""
        order = np.argsort(examples.lengths, kind="stable").astype(np.int64)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]


def trace(
    model: nn.Module,
    dataset: Any,
    loss: Loss | None = None,
    checkpoints: Any = None,
    rates: Sequence[float] | None = None,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    modules: str | Sequence[str] = "*",
) -> CheckpointRun:
    """Makes a run of a network and its training examples, and checks its gradients.

    Gradients are taken of the parameters that require one (with LoRA: the adapter's), without
    dropout. They are held against autograd on two examples here; trained parameters whose
    gradients cannot be taken are named in the run's provenance, with the covered share.

    Args:
        model: A `torch.nn.Module` as trained.
        dataset: Training examples: dicts with input_ids and, where not every token is a target,
            labels (-100 = no target); a Hugging Face dataset, a DataLoader, or what
            `llm_influence.encode` makes of texts. With a loss of your own: any items.
        loss: From (model, batch) to losses of shape (n_examples,). Default: by the model's class,
            for a causal language model the mean over the example's target tokens.
        checkpoints: Moments of training: state dicts, files, folders or `Checkpoint`s; a Trainer's
            output folder stands for all its checkpoints. Default: the model as it is.
        rates: Step on one example's own loss that each checkpoint stands for: learning rate x
            visits / batch size. Read from Trainer folders. Without rates, values have no scale.
        batch_size: Examples in one pass; no value depends on it.
        device: Moves the model there. Default: where it is.
        dtype: Number type of the forward pass (autocast), e.g. "bfloat16".
        modules: Patterns of the names of modules whose gradients are taken. Of tied weights all
            modules must be named: a part of their gradient is refused.

    The weights must stay as they are while the run is used, unless `checkpoints` holds copies of
    them: a changed model is refused when it is asked.

    Raises:
        InputError: Examples, loss or checkpoints do not fit; the message says which.
        UnsupportedModelError: No loss is known for the model, no layer of it is covered, or it is
            compiled or wrapped by DataParallel.
    """
    check_whole("batch_size", batch_size, least=1)
    check_model(model)
    examples = as_examples(dataset, pad=padding_of(model))
    chosen = default_loss(model) if loss is None else loss
    check_examples(model, chosen, examples)
    if device is not None:
        _move(model, device)
    place = next(model.parameters()).device
    autocast = _number_type(dtype)
    coverage = cover(Probe(model, chosen, examples, place, autocast), modules)
    moments = as_checkpoints(checkpoints, rates, model, examples.n_queries)
    stated: dict[str, str | float] = {
        "loss": name_of(chosen),
        "torch": torch.__version__,
        "covered_parameters": coverage.share,
        "gradient_error": coverage.worst,
    }
    if coverage.uncovered:
        stated["uncovered_because"] = "; ".join(names_of(coverage.uncovered))
    return CheckpointRun(
        model, examples, chosen, moments, coverage, int(batch_size), place, autocast, stated,
        sums_of(model),
    )  # fmt: skip


def _move(model: nn.Module, device: torch.device | str) -> None:
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f'Expected a device that torch has here, e.g. "cpu" or "cuda:0", got {device!r}: '
            f"{error}"
        ) from error


def _number_type(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found is None and dtype is None:
        return None
    if found not in (torch.bfloat16, torch.float16):
        raise InputError(
            f'dtype must be "bfloat16" or "float16", in which the forward pass then runs, got '
            f"{dtype!r}; for others convert the model itself."
        )
    return found
