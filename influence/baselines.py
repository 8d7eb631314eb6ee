"""Chance as a method, whatever the model: what every other method must beat."""

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor
from influence.checks import check_whole
from influence.run import Queries, Run

RunT = TypeVar("RunT", bound=Run)
QueriesT = TypeVar("QueriesT", bound=Queries)
Keys = NDArray[np.uint64]


class Chance(Attributor[RunT, QueriesT], Generic[RunT, QueriesT]):
    """Standard normal values, drawn anew for every row and query.

    A value follows from the seed and a key each of row and query, so that batches and threads
    change no bit.
    """

    unit = "similarity"
    _rows: Keys  # of the training rows, (n_train,)
    _counted: NDArray[np.bool_]  # rows of weight above 0, (n_train,)

    def __init__(self, seed: int = 0) -> None:
        check_whole("seed", seed)
        self.seed = seed

    @abstractmethod
    def _keys(self, queries: QueriesT) -> Keys:
        """A number for each query, shape (n_queries,)."""

    def _add_columns(self, queries: QueriesT, out: NDArray[np.float64]) -> None:
        for q, key in enumerate(self._keys(queries)):
            out[:, q] += self._counted * normal(self.seed, self._rows, key)

    def _diagonal(self, train: QueriesT, rows: slice) -> NDArray[np.float64]:
        return self._counted[rows] * normal(self.seed, self._rows[rows], self._keys(train))

    def _bytes_per_value(self) -> int:
        return 16


def key_of(hexadecimal: str) -> int:
    """The key of a fingerprint: its first 64 bits."""
    return int(hexadecimal[:16], 16)


def normal(seed: int, rows: Keys, key: Any) -> NDArray[np.float64]:
    """A standard normal number for each row, from its key, the query's key and the seed.

    The bits are those of the splitmix64 generator.

    Args:
        seed: Seed.
        rows: A key for each row, shape (n_rows,).
        key: The query's key, or one for each row.
    """
    from scipy.special import ndtri

    bits = _mixed(_mixed(_mixed(np.full(len(rows), seed % 2**64, np.uint64)) ^ key) ^ rows)
    return ndtri(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def _mixed(bits: Keys) -> Keys:
    """Every bit of the result depends on every bit given."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
