"""`ByRows`: the shape of every estimator whose values are inner products of rows."""

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influence.base import Attributor
from influence.change import check_range, row_positions
from influence.errors import InputError
from influence.result import Influence
from llm_influence.examples import Examples
from llm_influence.rows import RowMap, TrainRows
from llm_influence.run import CheckpointRun, trace
from llm_influence.token_influence import TokenInfluence

AT_ONCE = 4_096  # training rows brought to the number type of the queries' at a time


@dataclass(frozen=True)
class Side:
    """What rows go through before their product: a linear map, then unit length.

    Attributes:
        linear: From rows to rows, shape (n, width), which may be wider numbers; None keeps them.
        unit: Divide by the length of the whole example's row.
    """

    linear: Callable[[Tensor], Tensor] | None = None
    unit: bool = False

    def __call__(self, rows: Tensor, wholes: Tensor | None = None) -> Tensor:
        """Prepared rows; `wholes` are the rows of whole examples where these are of tokens."""
        mapped = self._mapped(rows)
        if not self.unit:
            return mapped
        whole = mapped if wholes is None else self._mapped(wholes)
        return mapped / whole.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)

    def _mapped(self, rows: Tensor) -> Tensor:
        wide = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
        return wide if self.linear is None else self.linear(wide)


@dataclass(frozen=True, eq=False)
class Step:
    """One term of the sum: weight * <train row, query row> at a checkpoint.

    Attributes:
        checkpoint: Its position in the run.
        train: Rows of the training examples.
        train_of: What made them.
        query_of: What makes rows of queries.
        train_side: What train rows go through.
        query_side: What query rows go through.
        weight: A number, or one for each training example, shape (n_train,).
    """

    checkpoint: int
    train: TrainRows
    train_of: RowMap
    query_of: RowMap
    train_side: Side = Side()
    query_side: Side = Side()
    weight: float | Tensor = 1.0

    def weights(self, rows: slice) -> float | Tensor:
        return self.weight[rows, None] if isinstance(self.weight, Tensor) else self.weight

    def add_columns(self, query: Tensor, out: NDArray[np.float64]) -> None:
        """out += weight * train rows @ prepared query rows^T, out of shape (n_train, n_queries)."""
        for block, values in self.train.blocks(self.checkpoint):
            prepared = self.train_side(values.to(query.device))
            parts = [part.to(query.dtype) @ query.T for part in prepared.split(AT_ONCE)]
            out[block] += (self.weights(block) * torch.cat(parts).double()).cpu().numpy()


class ByRows(Attributor[CheckpointRun, Examples]):
    """An attributor whose values are a sum over steps of inner products of rows."""

    stores = True
    steps_: Sequence[Step]

    @staticmethod
    def _trace(model: nn.Module, *data: Any) -> CheckpointRun:
        return trace(model, *data)

    @abstractmethod
    def _steps(
        self, run: CheckpointRun, store: str | os.PathLike[str] | None, progress: bool
    ) -> Sequence[Step]:
        """The terms of the sum, with their training rows built."""

    def _fit(self, run: CheckpointRun) -> None:
        self.steps_ = self._steps(run, self._store, self._progress)

    def _bytes_per_value(self) -> int:
        width = max(step.query_of.width for step in self.steps_)
        return 8 + 8 * width // self._fitted_run().n_train

    def _add_columns(self, queries: Examples, out: NDArray[np.float64]) -> None:
        for step in self.steps_:
            rows = step.query_of.rows(step.checkpoint, queries)
            step.add_columns(step.query_side(rows), out)

    def _diagonal(self, train: Examples, rows: slice) -> NDArray[np.float64]:
        total = np.zeros(rows.stop - rows.start)
        for step in self.steps_:
            own = step.train.take(step.checkpoint, rows)
            same = step.query_of is step.train_of
            asked = own if same else step.query_of.rows(step.checkpoint, train)
            products = step.train_side(own) * step.query_side(asked)
            total += (step.weights(rows) * products.sum(1, keepdim=True))[:, 0].cpu().numpy()
        return total

    def tokens(self, query: Any, train: Sequence[int]) -> TokenInfluence:
        """Influence by token, of some training examples on one query.

        Args:
            query: One query example.
            train: Positions of training examples, e.g. of its proponents.

        Returns:
            For each of them the influence of its tokens, and that on the query's tokens; both add
            up to the influence of the example on the query.
        """
        run, asked = self._ask(query)
        if asked.n_queries != 1:
            raise InputError(f"Expected one query to split by token, got {asked.n_queries}.")
        rows = row_positions(train, "tokens(train)")
        check_range(rows, run.n_train, "tokens(train)")
        train_parts = [np.zeros(int(run.examples.lengths[i])) for i in rows]
        query_parts = [np.zeros(int(asked.lengths[0])) for _ in rows]
        for step in self.steps_:
            self._add_tokens(step, asked, rows, train_parts, query_parts)
        return TokenInfluence(rows, train_parts, query_parts, run.train_index[rows])

    def _add_tokens(
        self,
        step: Step,
        asked: Examples,
        train: NDArray[np.int64],
        train_parts: list[NDArray[np.float64]],
        query_parts: list[NDArray[np.float64]],
    ) -> None:
        query_tokens = step.query_of.token_rows(step.checkpoint, asked)
        query_row = query_tokens.sum(0, keepdim=True)
        by_token = step.query_side(query_tokens, query_row)
        for k, i in enumerate(train):
            one = self._fitted_run().examples[i : i + 1]
            tokens = step.train_of.token_rows(step.checkpoint, one)
            row = tokens.sum(0, keepdim=True)
            weight = step.weights(slice(i, i + 1))
            of_train = step.train_side(tokens, row).to(by_token) @ by_token.sum(0)
            of_query = by_token @ step.train_side(row)[0].to(by_token)
            train_parts[k] += (weight * of_train[:, None])[:, 0].double().cpu().numpy()
            query_parts[k] += (weight * of_query[:, None])[:, 0].double().cpu().numpy()

    @contextmanager
    def trace(self, model: nn.Module) -> Iterator["CustomQuery"]:
        """Explains any loss: run the forward and backward pass of one inside.

            with estimator.trace(model) as asked:
                my_loss(model).backward()
            asked.explain()

        This is for runs of one checkpoint; inside, the model has its weights. Ask nothing else of
        the model inside.

        Args:
            model: The run's model.
        """
        run = self._fitted_run()
        if model is not run.model:
            raise InputError("trace takes the model of the run, got another object.")
        if len(self.steps_) != 1:
            raise InputError(
                "A loss of your own is explained at one checkpoint, the run has "
                f"{len(self.steps_)}; trace the run without checkpoints=."
            )
        asked = CustomQuery(self)
        (step,) = self.steps_
        with step.query_of.watching(step.checkpoint) as whole:
            yield asked
        asked.row = whole()


class CustomQuery:
    """A query whose loss was the user's own; made by `trace`."""

    row: Tensor | None = None

    def __init__(self, estimator: ByRows) -> None:
        self._estimator = estimator

    def explain(self) -> Influence:
        """Influence of every training example on the loss, shape (n_train, 1)."""
        import pandas as pd

        if self.row is None:
            raise InputError("Ask after the `with` block has ended.")
        run = self._estimator._fitted_run()
        (step,) = self._estimator.steps_
        values = np.zeros((run.n_train, 1))
        step.add_columns(step.query_side(self.row), values)
        index = pd.RangeIndex(1)
        return Influence(values, run.train_index, index, self._estimator.provenance)
