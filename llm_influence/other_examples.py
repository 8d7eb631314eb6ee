"""`OtherExamples`: examples of any kind, for losses of the user's own."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from influence.errors import InputError
from influence.run import fingerprint


class Items(Protocol):
    """Examples at positions: a sequence or a torch map-style dataset."""

    def __getitem__(self, position: int, /) -> Any: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class OtherExamples:
    """Examples of any kind, collated as the caller does it.

    An example must be the same each time it is asked for: random augmentation would give every
    estimator other examples than the last.

    Args:
        items: All examples.
        collate: From a list of examples to a batch.
        rows: Positions of these examples in `items`, shape (n_examples,).
        index: The caller's labels of the examples.
        facts: What a reader of a result should know of these examples.
    """

    items: Items
    collate: Callable[[list[Any]], Any]
    rows: NDArray[np.int64]
    index: pd.Index
    facts: Mapping[str, str | float] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Items, collate: Callable[[list[Any]], Any]) -> Self:
        """All the items, labelled by position."""
        return cls(items, collate, np.arange(len(items)), pd.RangeIndex(len(items)))

    @property
    def n_queries(self) -> int:
        """Number of examples."""
        return len(self.rows)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Ones: what counts as a token is not known, shape (n_examples,)."""
        return np.ones(len(self.rows), dtype=np.int64)

    def __getitem__(self, block: slice) -> Self:
        return replace(self, rows=self.rows[block], index=self.index[block])

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The examples at these positions, in this order."""
        return replace(self, rows=self.rows[rows], index=self.index[rows])

    def batch(self, rows: ArrayLike) -> Any:
        """The examples at these positions, collated."""
        return self.collate([self.items[int(i)] for i in self.rows[np.asarray(rows, np.int64)]])

    def content(self, rows: slice) -> str:
        """Hash of the tensors, arrays, numbers and texts of these examples.

        Raises:
            InputError: An example holds something else.
        """
        return fingerprint(*(fingerprint(*_parts(self.items[int(i)])) for i in self.rows[rows]))


def _parts(item: Any) -> Iterator[NDArray[np.generic] | str]:
    """Arrays and strings that tell an item apart from any other."""
    if isinstance(item, torch.Tensor):
        held = item.detach().cpu().contiguous()
        yield f"{held.dtype} {tuple(held.shape)}"
        yield held.reshape(-1).view(torch.uint8).numpy()
    elif isinstance(item, np.ndarray | np.generic) and np.asarray(item).dtype != object:
        yield np.asarray(item)
    elif item is None or isinstance(item, str | bytes | int | float | complex):
        yield f"{type(item).__name__} {item!r}"
    elif isinstance(item, Mapping):
        yield f"dict {len(item)}"
        for key in sorted(item, key=repr):
            yield from _parts(key)
            yield from _parts(item[key])
    elif isinstance(item, list | tuple):
        yield f"list {len(item)}"
        for part in item:
            yield from _parts(part)
    else:
        raise InputError(
            "Expected examples of tensors, arrays, numbers, texts, and dicts, lists and tuples of "
            f"these, got a {type(item).__name__}; convert it to a tensor in the dataset."
        )
