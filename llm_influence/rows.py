"""Rows: the projected gradients of examples, and where those of the training examples are kept.

| class  | training rows are                                                        |
|--------|--------------------------------------------------------------------------|
| Held   | in memory                                                                |
| Store  | in shards on disk (`llm_influence.store`)                                |
| Anew   | worked out again whenever they are asked for: whole gradients of a model |
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence.errors import InputError
from influence.progress import counting, track
from influence.run import blocks, name_of
from llm_influence.examples import Examples
from llm_influence.gradients import (
    Gradients,
    Loss,
    Reduce,
    Transform,
    projected,
    tokens_as_examples,
)
from llm_influence.layers import Sides
from llm_influence.projection import Bound, Projection
from llm_influence.run import CheckpointRun
from llm_influence.sharded import by_turns, is_sharded
from llm_influence.store import Plan, Store
from llm_influence.store_at import StoreAt

MOST_HELD = 2 * 2**30  # bytes of training rows that are kept in memory
MOST_AT_ONCE = 2**29  # bytes of rows in one pass

Transforms = Callable[[int], Transform | None]


Done = Callable[[int], object]  # told how many more examples are done


class RowsOf(Protocol):
    """From examples to their rows, shape (n_examples, width)."""

    def __call__(self, examples: Examples, done: Done | None = None) -> Tensor: ...


class TrainRows(Protocol):
    """Rows of all training examples at every checkpoint, shape (n_train, width)."""

    def blocks(self, checkpoint: int) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, a block at a time."""
        ...

    def take(self, checkpoint: int, rows: slice) -> Tensor:
        """Some rows."""
        ...


@dataclass(frozen=True, eq=False)
class RowMap:
    """From examples to rows: the gradient of an output, transformed, projected.

    Attributes:
        run: The run.
        projection: What the gradients go through at last.
        output: What is differentiated, (model, batch) -> (n_examples,); None: the run's loss.
        transforms: What each block's gradient goes through before, by checkpoint.
        about: What `transforms` are, ready for JSON; part of the specification of a store.
        additive: The rows of tokens add up to that of their example; not so where a transform is
            not linear.
    """

    run: CheckpointRun
    projection: Projection
    output: Loss | None = None
    transforms: Transforms = field(default=lambda checkpoint: None)
    about: Mapping[str, Any] = field(default_factory=dict)
    additive: bool = True

    @cached_property
    def bound(self) -> Bound:
        parameter = next(self.run.model.parameters())
        dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        like = torch.empty(0, dtype=dtype, device=self.run.device)
        covered = self.run.coverage.blocks
        return self.projection.bind({name: b.shape for name, b in covered.items()}, like)

    @property
    def width(self) -> int:
        return self.bound.width

    @property
    def recipe(self) -> dict[str, Any]:
        """All that decides the numbers of a row, besides weights and examples."""
        return {
            "projection": dict(self.projection.specification),
            "output": name_of(self.output or self.run.loss),
            "transform": dict(self.about),
            "autocast": str(self.run.autocast),
            "blocks": {name: list(b.shape) for name, b in self.run.coverage.blocks.items()},
        }

    @contextmanager
    def at(self, checkpoint: int) -> Iterator[RowsOf]:
        """A function from examples to rows at a checkpoint, shape (n_examples, width)."""
        transform = self.transforms(checkpoint)
        with (
            self.run.at(checkpoint) as model,
            Gradients(
                model, self.run.coverage.layers, self._reduce(transform), self.run.autocast
            ) as gradients,
        ):
            yield lambda examples, done=None: self._rows(gradients, examples, transform, done)

    def rows(self, checkpoint: int, examples: Examples) -> Tensor:
        """Rows of examples at a checkpoint, shape (n_examples, width)."""
        with self.at(checkpoint) as rows:
            return rows(examples)

    def token_rows(self, checkpoint: int, example: Examples) -> Tensor:
        """Rows of the tokens of one example, shape (n_tokens, width); they add up to its row.

        A token's row is what its position contributes to the gradient: the sum over layers of the
        outer product of the layer's input there and the loss's gradient by its output there.

        Raises:
            InputError: The rows are not `additive`.
        """
        if not self.additive:
            raise InputError(
                "Expected an estimator whose rows of training examples are linear in their "
                "gradients, got one whose rows are not (LESS: Adam's step): the influence of an "
                "example is no sum over its tokens. Ask TracIn for tokens."
            )
        transform = self.transforms(checkpoint)
        reduce = self._reduce(transform)
        with (
            self.run.at(checkpoint) as model,
            Gradients(
                model, self.run.coverage.layers, _as_they_are, self.run.autocast
            ) as gradients,
        ):
            batch = self.run.batch(example, [0])
            losses, found = gradients.sides(self.output or self.run.loss, batch, 1)
        n_tokens = int(example.lengths[0])
        _check_finite(losses, "losses", example, [0])
        _check_by_token(found, n_tokens)
        by_token = {
            block: [reduce(block, tokens_as_examples(sides)) for sides in parts]
            for block, parts in found.items()
        }
        return projected(by_token, self.bound, transform, n_tokens, next(model.parameters()))

    @contextmanager
    def watching(self, checkpoint: int) -> Iterator[Callable[[], Tensor]]:
        """Watches passes of the caller's own; afterwards the function gives their row, (1, width).

        Raises:
            InputError: No backward pass was seen.
        """
        transform = self.transforms(checkpoint)
        layers, reduce = self.run.coverage.layers, self._reduce(transform)
        with (
            self.run.at(checkpoint) as model,
            Gradients(model, layers, reduce, self.run.autocast) as gradients,
            gradients.watching() as found,
        ):
            like = next(model.parameters())
            yield lambda: projected(found, self.bound, transform, 1, like)
        if not found:
            raise InputError("Expected a forward and a backward pass inside the `with` block.")

    def _reduce(self, transform: Transform | None) -> Reduce:
        return self.bound.reduce if transform is None else _as_they_are

    def _rows(
        self,
        gradients: Gradients,
        examples: Examples,
        transform: Transform | None,
        done: Done | None,
    ) -> Tensor:
        def found(rows: NDArray[np.int64]) -> Tensor:
            batch = self.run.batch(examples, rows)
            loss = self.output or self.run.loss
            losses, values = gradients.rows(loss, batch, len(rows), self.bound, transform)
            _check_finite(losses, "losses", examples, rows)
            _check_finite(values.abs().sum(1), "gradients", examples, rows)
            return values

        out: Tensor | None = None
        sharded = is_sharded(self.run.model)
        for batch_rows in self.run.batches(examples):
            size = max(1, MOST_AT_ONCE // (8 * self.width))
            for part in blocks(len(batch_rows), size):
                rows = batch_rows[part]
                values = by_turns(rows, found) if sharded else found(rows)
                if out is None:
                    out = values.new_empty(examples.n_queries, self.width)
                out[torch.from_numpy(rows)] = values
                if done is not None:
                    done(len(rows))
        return torch.empty(0, self.width) if out is None else out


@dataclass(frozen=True, eq=False)
class Held:
    """Rows in memory, one matrix for each checkpoint."""

    matrices: list[Tensor]

    def blocks(self, checkpoint: int) -> Iterator[tuple[slice, Tensor]]:
        yield slice(0, len(self.matrices[checkpoint])), self.matrices[checkpoint]

    def take(self, checkpoint: int, rows: slice) -> Tensor:
        return self.matrices[checkpoint][rows]


@dataclass(frozen=True, eq=False)
class Anew:
    """Rows worked out again whenever they are asked for."""

    rows_of: RowMap
    progress: bool

    def blocks(self, checkpoint: int) -> Iterator[tuple[slice, Tensor]]:
        examples = self.rows_of.run.examples
        listed = list(blocks(examples.n_queries, self._size()))
        with self.rows_of.at(checkpoint) as rows:
            for block in track(listed, "gradients", len(listed), self.progress):
                yield block, rows(examples[block])

    def take(self, checkpoint: int, rows: slice) -> Tensor:
        return self.rows_of.rows(checkpoint, self.rows_of.run.examples[rows])

    def _size(self) -> int:
        """A few batches, so that examples of similar length meet, where memory allows."""
        return max(
            1, min(8 * self.rows_of.run.batch_size, MOST_AT_ONCE // (4 * self.rows_of.width))
        )


def training_rows(
    rows_of: RowMap, store: str | os.PathLike[str] | None, progress: bool
) -> TrainRows:
    """Rows of the training examples: in a store if a path is given, else in memory if they fit."""
    run = rows_of.run
    n_checkpoints = len(run.checkpoints)
    if store is not None:
        return stored_rows(rows_of, store, progress)
    if 4 * run.n_train * rows_of.width * n_checkpoints > MOST_HELD:
        return Anew(rows_of, progress)
    matrices = []
    for checkpoint in range(n_checkpoints):
        kept = list(Anew(rows_of, progress).blocks(checkpoint))
        matrices.append(torch.cat([values for _, values in kept]))
    return Held(matrices)


def stored_rows(rows_of: RowMap, path: str | os.PathLike[str], progress: bool) -> Store:
    """Builds what a store lacks; several processes of one `torchrun` share the shards."""
    run = rows_of.run
    kept = path if isinstance(path, StoreAt) else StoreAt(path)
    plan = Plan(
        recipe=rows_of.recipe,
        models=run.model_fingerprints,
        n_rows=run.n_train,
        width=rows_of.width,
        content=run.examples.content,
        dtype=kept.dtype,
    )
    store = Store.open(path, plan)
    if kept.opened is not None:
        kept.opened(store)
    rank, n_ranks = ranks()
    together = is_sharded(run.model)  # all work on every shard, and the first writes it
    if together:
        torch.distributed.barrier()
    for checkpoint in range(len(run.checkpoints)):
        own = [
            block
            for block in store.missing(checkpoint)
            if together or block.start // store.shard_rows % n_ranks == rank
        ]
        if not own:
            continue
        n_rows = sum(block.stop - block.start for block in own)
        with (
            rows_of.at(checkpoint) as rows,
            counting("gradients", n_rows, progress) as done,
        ):
            for block in own:
                values = rows(run.examples[block], done).cpu()
                if rank == 0 or not together:
                    store.write(checkpoint, block, values)
    if n_ranks > 1:  # the others' shards are not known to this one
        torch.distributed.barrier()
        store = Store.open(path, plan)
    if rank == 0:
        store.finish()
    if n_ranks > 1:
        torch.distributed.barrier()
    return store


def _as_they_are(block: str, sides: Sides) -> Sides:
    return sides


def _check_finite(values: Tensor, what: str, examples: Examples, rows: Any) -> None:
    if torch.isfinite(values).all():
        return
    first = int(torch.nonzero(~torch.isfinite(values))[0])
    row = int(rows[first])
    raise InputError(
        f"Expected finite {what}, got {float(values[first])} for example {examples.index[row]!r} "
        f"(position {row} of {examples.n_queries}); leave it out, or train in another number type."
    )


def _check_by_token(found: Mapping[str, list[Sides]], n_tokens: int) -> None:
    """Refuses gradients that do not come one by one from the tokens of one example."""
    for block, parts in found.items():
        for sides in parts:
            if sides[0].shape[1] != n_tokens:
                raise InputError(
                    f"Expected layers that see all {n_tokens} tokens of an example, but that of "
                    f"{block} sees {sides[0].shape[1]} (a pooled text, or examples of a loss of "
                    "your own, whose tokens are not known): its gradient is no sum over tokens. "
                    "Trace with modules= of the layers before it."
                )


def ranks() -> tuple[int, int]:
    """This process's number and how many there are, where `torchrun` started several."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
