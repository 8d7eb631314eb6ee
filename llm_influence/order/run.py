"""`OptimizerRun`: a recorded training that can be repeated, exactly or with a change."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influence.change import Change, Reordered, Reweighted, Without
from influence.errors import InputError, RetrainingError, UnsupportedChangeError
from influence.run import fingerprint, name_of
from llm_influence.coverage import moved
from llm_influence.gradients import Loss
from llm_influence.order.batches import Batches
from llm_influence.order.derivatives import Derivatives
from llm_influence.order.flat import Flat
from llm_influence.order.places import Places, Unit, check_unit, places
from llm_influence.order.queries import BatchQueries, as_queries
from llm_influence.order.rules import RULES, Moments, Rule
from llm_influence.order.training import share, step

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a run was trained.

    Attributes:
        optimizer: Name of torch's class.
        groups: Its groups' options, without parameters and learning rates.
        rates: Learning rate of every step and group.
        max_grad_norm: Norm that gradients are clipped to; None for no clipping.
        accumulate: Batches of a step.
    """

    optimizer: str
    groups: tuple[Mapping[str, Any], ...]
    rates: tuple[tuple[float, ...], ...]
    max_grad_norm: float | None
    accumulate: int


@dataclass(frozen=True, eq=False)
class Part:
    """What one backward pass of a step takes: a batch, and a weight on each example or none."""

    batch: Any
    weights: Tensor | None = None


@dataclass(frozen=True, eq=False, repr=False)
class OptimizerRun:
    """The evidence about a training's every step; made by `record`.

    Attributes:
        model: The network; only its architecture, frozen parameters and mode are used.
        loss: From (model, batch) to one loss for each example.
        flat: The trained parameters as a vector.
        recipe: Optimizer, rates, clipping.
        start: The model's state dict before the first step.
        state: The optimizer's, by number of the parameter.
        batches: The distinct batches.
        order: The batch of every place: `recipe.accumulate` places make a step.
        final: The trained parameters after the last step, shape (flat.n,).
        unit: What a training row is, in changes of weights and of order.
    """

    model: nn.Module
    loss: Loss
    flat: Flat
    recipe: Recipe
    start: Weights
    state: Mapping[int, Mapping[str, Any]]
    batches: Batches
    order: tuple[int, ...]
    final: Tensor
    unit: Unit = "batch"

    def __repr__(self) -> str:
        return (
            f"<OptimizerRun of {self.recipe.optimizer}: {self.flat.n:,} parameters, {self.n_steps} "
            f"steps over {self.n_batches} batches; a training row is a {self.unit}>"
        )

    @property
    def n_steps(self) -> int:
        return len(self.recipe.rates)

    @property
    def n_batches(self) -> int:
        """Number of distinct batches."""
        return len(self.batches)

    @property
    def n_train(self) -> int:
        return self.n_batches if self.unit == "batch" else self.batches.examples.n_queries

    @property
    def train_index(self) -> pd.Index:
        if self.unit == "batch":
            return pd.RangeIndex(self.n_batches)
        return self.batches.examples.index

    def by(self, unit: Unit) -> Self:
        """The same run with samples or batches as its training rows.

        A `Without` or `Reweighted` names these, and a `Reordered` puts one into every place.
        """
        return replace(self, unit=check_unit(unit))

    @cached_property
    def places(self) -> Places:
        """Where in the training each row is taken."""
        if self.unit == "batch":
            items = [np.array([i]) for i in self.order]
        else:
            items = [self.batches.rows[i] for i in self.order]
        return places(items, self.recipe.accumulate, self.n_train)

    def row(self, i: int) -> Any:
        """Training row i as a batch, on the device of the model."""
        if self.unit == "batch":
            return self.batch(i)
        return self.placed(self.batches.of_rows(np.array([i])))

    @property
    def fingerprint(self) -> str:
        """Hash of start, recipe, batches and order."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        examples = self.batches.examples
        rows = [fingerprint(rows) for rows in self.batches.rows]
        start = [self.start[name] for name in sorted(self.start)]
        begin = [_hash(tensor) for tensor in (*start, *self._moments(), self.final)]
        return fingerprint(
            "optimizer run 1", repr(self.recipe), name_of(self.loss), self.unit, *begin, *rows,
            repr(sorted(self._steps_taken())), repr(self.flat),
            examples.content(slice(0, examples.n_queries)), np.array(self.order),
        )  # fmt: skip

    @property
    def provenance(self) -> Mapping[str, str | float]:
        return {
            "loss": name_of(self.loss),
            "torch": torch.__version__,
            "optimizer": self.recipe.optimizer,
            "steps": self.n_steps,
        }

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensors that `save` writes."""
        from llm_influence.order.files import size_of

        return size_of(self)

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes the run into a new folder: completely, or nothing of it.

        It holds start, optimizer state, final weights and steps, and what the steps took: the
        batches, or the rows and the examples, where these have input_ids. Examples of other kinds
        given as dataset= are not saved. Batches come back as plain dicts, lists and tuples: loading
        takes a loss that reads them by key or position, not batch.input_ids of a BatchEncoding or
        batch.x of a named tuple.

        Raises:
            InputError: The folder exists.
            StorageError: It cannot be written: the disk is full, say.
        """
        from llm_influence.order.files import save

        save(self, folder)

    @classmethod
    def load(
        cls,
        folder: str | PathLike[str],
        model: nn.Module | None = None,
        loss: Loss | None = None,
        dataset: Any = None,
    ) -> "OptimizerRun":
        """The run of a folder that `save` wrote; no code in it is run.

        Args:
            folder: The folder; its checksums are verified.
            model: The architecture, on the device to use; a copy of it gets the saved weights.
                Not needed for models of transformers without adapters.
            loss: The loss; not needed for the built-in ones.
            dataset: The examples, where the folder does not hold them.

        Raises:
            StorageError: A file is missing, damaged or of another format version.
            InputError: Model, loss or dataset are missing or not those of the recording.
            TrainingDataError: The dataset holds other examples.
        """
        from llm_influence.order.files import load

        return load(folder, model, loss, dataset)

    def queries(self, *data: Any) -> BatchQueries:
        """Validates queries: a list of batches, the loss of a query is the mean over its batch.

        `Examples` (of `encode`, or `run.batches.examples`) are one query each.
        """
        if len(data) != 1:
            raise InputError(f"Expected one list of batches as queries, got {len(data)} arguments.")
        queries = as_queries(data[0])
        if queries is data[0]:
            return queries
        losses = self.losses(queries)
        wrong = np.flatnonzero(~np.isfinite(losses))
        if wrong.size:
            raise InputError(
                f"Expected queries of finite loss, but the loss of query {wrong[0]} is "
                f"{losses[wrong[0]]}; does it have targets?"
            )
        return queries

    def train_queries(self) -> BatchQueries:
        """Every training row as a query."""
        return BatchQueries([self.row(i) for i in range(self.n_train)], self.train_index)

    def losses(self, queries: BatchQueries) -> NDArray[np.float64]:
        """Loss of each query as trained, shape (n_queries,)."""
        return self.losses_at(self.final, queries)

    def losses_at(self, weights: Tensor, queries: BatchQueries) -> NDArray[np.float64]:
        """Loss of each query at any weights, shape (n_queries,)."""
        model = copy.deepcopy(self.model)
        self.flat.write(model, weights)
        with torch.no_grad():
            found = [self._loss_of(model, i, b) for i, b in enumerate(queries.batches)]
        return torch.stack(found).cpu().numpy()

    def _loss_of(self, model: nn.Module, i: int, batch: Any) -> Tensor:
        try:
            return self.loss(model, self.placed(batch)).double().mean()
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"Expected batches that the loss takes, like those of training, but query {i}, a "
                f"{type(batch).__name__}, fails with {error!r}; examples go through "
                "llm_influence.encode, and one batch alone is [batch]."
            ) from error

    def placed(self, batch: Any) -> Any:
        """A batch on the device of the model."""
        return moved(batch, self.final.device)

    def batch(self, i: int) -> Any:
        """Batch i on the device of the model."""
        return self.placed(self.batches.batch(i))

    def derivatives(self) -> Derivatives:
        """Of the losses, on a copy of the model."""
        return Derivatives(self.model, self.loss, self.flat)

    def rule(self, smoothing: float = 0.0) -> Rule:
        """The optimizer's update as a function of vectors."""
        recipe = self.recipe
        return RULES[recipe.optimizer](
            self.flat, recipe.groups, recipe.rates, self._taken(), smoothing
        )

    def begin(self) -> tuple[Tensor, Moments]:
        """Weights and moments before the first step, each shape (flat.n,)."""
        weights = self.flat.join([self.start[name] for name in self.flat.names]).to(self.final)
        return weights, self._moments()

    def parts(self, change: Change | None = None) -> list[list[Part]]:
        """What the steps of the run take, under a change of order or weights.

        Raises:
            InputError: An order of other batches than the recorded ones.
            UnsupportedChangeError: Another kind of change.
        """
        if isinstance(change, Reordered):
            taken = [Part(batch) for batch in self._reordered(self.places.check(change))]
        elif change is None:
            taken = [Part(self.batch(i)) for i in self.order]
        elif not isinstance(change, Without | Reweighted):
            raise UnsupportedChangeError(
                f"A recorded training is repeated with Without, Reweighted or Reordered, got "
                f"{type(change).__name__}; for other labels record a training on them."
            )
        else:
            kept = torch.from_numpy(1.0 - change.removed(self.n_train)).to(self.final)
            taken = [Part(self.batch(i), self._of_batch(kept, i)) for i in self.order]
        k = self.recipe.accumulate
        return [taken[first : first + k] for first in range(0, len(taken), k)]

    def _reordered(self, order: NDArray[np.int64]) -> list[Any]:
        """The batch of every pass when each place takes another row."""
        if self.unit == "batch":
            return [self.batch(i) for i in order]
        ends = np.cumsum([len(self.batches.rows[i]) for i in self.order])
        rows = np.split(order, ends[:-1])
        return [self.placed(self.batches.of_rows(one)) for one in rows]

    def _of_batch(self, kept: Tensor, i: int) -> Tensor:
        """A weight for each example of a batch of weights by training row."""
        rows = torch.from_numpy(self.batches.rows[i]).to(kept.device)
        return kept[i].expand(len(rows)) if self.unit == "batch" else kept[rows]

    def train(self, change: Change | None = None) -> Tensor:
        """Really trains again; the trained parameters, shape (flat.n,).

        Without a change it takes the same operations as the recorded training, in the same order:
        on a CPU with the same number of threads it ends in the same bits, also once saved and
        loaded, wherever its batches lie in memory. With a change of weights a step's loss is the
        sum of weight times loss over the size of its batch: a batch left out is still a step.

        Raises:
            RetrainingError: It diverged.
        """
        *_, last = self.path(change)
        if not torch.isfinite(last).all():
            raise RetrainingError(
                "The training under this change ended in weights that are not finite; lower the "
                "learning rate of the recorded run."
            )
        return last

    def path(self, change: Change | None = None) -> Iterator[Tensor]:
        """The parameters before the first step and after every one of a real training."""
        model, optimizer = self._fresh()
        yield self.flat.read(model)
        for t, parts in enumerate(self.parts(change)):
            for part in parts:
                share(self.loss(model, part.batch), part.weights, len(parts)).backward()
            for group, rate in zip(optimizer.param_groups, self.recipe.rates[t], strict=True):
                group["lr"] = rate
            step(model, optimizer, self.recipe.max_grad_norm)
            yield self.flat.read(model)

    def _fresh(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A copy of the model and its optimizer, as they were before the first step."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.start)
        model.zero_grad(set_to_none=True)
        trained = self.flat.parameters(model)
        number = {n: p for n, p in zip(self.flat.numbers, trained, strict=True)}
        groups = [
            {**options, "lr": self.recipe.rates[0][g], "params": []}
            for g, options in enumerate(self.recipe.groups)
        ]
        for n, g in zip(self.flat.numbers, self.flat.groups, strict=True):
            groups[g]["params"].append(number[n])
        optimizer = getattr(torch.optim, self.recipe.optimizer)(groups)
        listed = [p for group in optimizer.param_groups for p in group["params"]]
        for n, parameter in zip(self.flat.numbers, listed, strict=True):
            if n in self.state:
                optimizer.state[parameter] = copy.deepcopy(dict(self.state[n]))
        return model, optimizer

    def _moments(self) -> Moments:
        return self.rule().start(self.state, self.final)

    def _taken(self) -> int:
        """Steps of the optimizer before the run."""
        steps = self._steps_taken()
        if len(steps) > 1:
            raise InputError(
                f"Expected an optimizer whose parameters all took as many steps, got {steps}."
            )
        carried = int(any(one.get("momentum_buffer") is not None for one in self.state.values()))
        return steps.pop() if steps else carried

    def _steps_taken(self) -> set[int]:
        held = [self.state.get(number, {}) for number in self.flat.numbers]
        return {int(one["step"]) for one in held if "step" in one}


def _hash(tensor: Tensor) -> str:
    return fingerprint(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
