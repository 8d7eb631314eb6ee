"""What estimators need of a Run and of its Queries, whatever the model behind them."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Queries(Protocol):
    """Validated query examples of one run; slices are queries too."""

    @property
    def n_queries(self) -> int: ...

    @property
    def index(self) -> pd.Index: ...

    def __getitem__(self, block: slice) -> Self: ...


class Run(Protocol):
    """The evidence: a trained model and what is known of its training."""

    @property
    def n_train(self) -> int: ...

    @property
    def train_index(self) -> pd.Index:
        """The caller's labels of the training rows, shape (n_train,)."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of model and data; keys caches and saved results."""
        ...

    @property
    def provenance(self) -> Mapping[str, str | float]:
        """What a reader of a result should know: versions and measured errors."""
        ...

    def queries(self, *data: Any) -> Queries:
        """Validates and freezes query data."""
        ...

    def train_queries(self) -> Queries:
        """The training rows as queries, in the order of the run."""
        ...

    def losses(self, queries: Any) -> NDArray[np.float64]:
        """Loss of each query as trained, shape (n_queries,)."""
        ...


def blocks(n: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover range(n)."""
    for start in range(0, n, max(1, size)):
        yield slice(start, min(start + max(1, size), n))


def name_of(function: Callable[..., Any]) -> str:
    """A function by the name it is imported with."""
    own = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{own}"


def fingerprint(*parts: NDArray[np.generic] | str) -> str:
    """Hash of arrays (with shape and dtype) and strings: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, str):
            digest.update(f"str {len(part)}\n{part}".encode())
        else:
            digest.update(f"{part.dtype.str} {part.shape}\n".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
