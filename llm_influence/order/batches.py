"""The distinct batches of a recorded run, by reference, and the training examples they are of.

Products of matrices round by how these lie in memory. What a step takes is therefore always
contiguous and aligned as torch allocates it; batches that are not are copied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from influence.errors import InputError
from influence.run import fingerprint
from llm_influence.examples import Examples
from llm_influence.nested import mapped, mapping_like, sequence_like
from llm_influence.other_examples import OtherExamples

Rows = NDArray[np.int64]

ALIGNED = 64  # bytes that an address of torch's on a CPU is a multiple of


@dataclass(frozen=True, eq=False)
class Batches:
    """Distinct batches; each is a list of training rows.

    Attributes:
        examples: The training examples: all rows of all batches.
        rows: Training rows of each batch.
        kept: The batches, laid out; None where they are collated anew from `examples`.
    """

    examples: Examples
    rows: tuple[Rows, ...]
    kept: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, i: int) -> Any:
        """Batch i, as the loss takes it."""
        return laid_out(self.examples.batch(self.rows[i])) if self.kept is None else self.kept[i]

    def of_rows(self, rows: Rows) -> Any:
        """Any training rows as one batch.

        Raises:
            InputError: Rows of batches of different lengths, recorded without dataset=.
        """
        try:
            return laid_out(self.examples.batch(rows))
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                "Expected rows that can be collated, but they come from batches of different "
                f"shapes ({error}). Record with record(..., dataset=examples) and steps of rows, "
                "so that rows are padded anew."
            ) from error


@dataclass(eq=False)
class Collected:
    """Batches as they come while a run is recorded: equal ones are one.

    Attributes:
        dataset: Examples that steps name rows of; None where steps give batches.
    """

    dataset: Examples | None
    _known: dict[str, int] = field(default_factory=dict)
    _rows: list[Rows] = field(default_factory=list)
    _kept: list[Any] = field(default_factory=list)
    _pieces: list[Any] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def batch(self, given: Any) -> Any:
        """What the loss takes of what a step was given."""
        if self.dataset is not None:
            given = self.dataset.batch(self._checked(given))
        return laid_out(given)

    def add(self, given: Any, n_examples: int) -> int:
        """The id of a batch of so many examples."""
        if self.dataset is not None:
            rows = self._checked(given)
            if len(rows) != n_examples:
                raise InputError(
                    f"Expected one loss for each of the {len(rows)} rows of a step, got "
                    f"{n_examples}."
                )
            key = fingerprint(rows)
        else:
            pieces = split(given, n_examples)
            keys = [_hashed(piece) for piece in pieces]
            key = fingerprint(*keys)
        if key in self._known:
            return self._known[key]
        if self.dataset is None:
            rows = np.array([self._place(*pair) for pair in zip(keys, pieces, strict=True)])
            self._kept.append(given)
        self._rows.append(rows)
        self._known[key] = len(self._known)
        return self._known[key]

    def batches(self) -> Batches:
        if self.dataset is not None:
            return Batches(self.dataset, tuple(self._rows))
        for key, rows, kept in zip(self._known, self._rows, self._kept, strict=True):
            if fingerprint(*map(_hashed, split(kept, len(rows)))) != key:
                raise InputError(
                    "Expected batches that stay as they were given, but one was overwritten since "
                    "(the same tensor for every batch?); give each call of step tensors of its own."
                )
        examples = OtherExamples.of(self._pieces, default_collate)
        return Batches(examples, tuple(self._rows), tuple(map(laid_out, self._kept)))

    def _place(self, key: str, piece: Any) -> int:
        if key not in self._places:
            self._places[key] = len(self._pieces)
            self._pieces.append(piece)
        return self._places[key]

    def _checked(self, given: Any) -> Rows:
        assert self.dataset is not None
        try:
            rows = np.asarray(given)
        except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors of a GPU
            rows = np.empty(0)
        n = self.dataset.n_queries
        if rows.ndim != 1 or not rows.size or rows.dtype.kind not in "iu":
            raise InputError(
                "Expected a step of positions in the dataset (integers), as record(dataset=...) "
                f"was given one, got {_told(given, rows)}."
            )
        if rows.min() < 0 or rows.max() >= n or np.unique(rows).size != rows.size:
            raise InputError(
                f"Expected distinct positions from 0 to {n - 1}, got {rows.tolist()[:10]}."
            )
        return rows.astype(np.int64)


def laid_out(batch: Any) -> Any:
    """A batch whose tensors are contiguous and aligned: views that are not are copied."""

    def laid(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout != torch.strided:
            return tensor
        whole = tensor.contiguous()
        return whole.clone() if whole.data_ptr() % ALIGNED else whole

    return mapped(batch, laid)


def split(batch: Any, n_examples: int) -> list[Any]:
    """The examples of a batch: every tensor in it cut along its first axis.

    Raises:
        InputError: It holds something else, or tensors of other lengths.
    """
    if isinstance(batch, torch.Tensor):
        if batch.dim() and len(batch) == n_examples:
            return list(batch)
        raise InputError(
            f"Expected tensors of {n_examples} examples, as many as the loss returned, got one of "
            f"shape {tuple(batch.shape)}. Record with dataset= and steps of rows instead."
        )
    if isinstance(batch, Mapping):
        columns = {key: split(value, n_examples) for key, value in batch.items()}
        return [
            mapping_like(batch, {key: column[i] for key, column in columns.items()})
            for i in range(n_examples)
        ]
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        parts = [split(value, n_examples) for value in batch]
        return [sequence_like(batch, (part[i] for part in parts)) for i in range(n_examples)]
    raise InputError(
        "Expected a batch of tensors (a tensor, or dicts and lists of them), whose examples can "
        f"be told apart, got a {type(batch).__name__}. Record with dataset= and steps of rows."
    )


def _hashed(piece: Any) -> str:
    return OtherExamples.of([piece], default_collate).content(slice(0, 1))


def _told(given: Any, rows: NDArray[np.generic]) -> str:
    return f"a {type(given).__name__} (dtype {rows.dtype}, shape {rows.shape})"
