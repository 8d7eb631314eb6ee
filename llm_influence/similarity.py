"""`Similarity`: the shape of every baseline that compares one vector of each example."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor
from influence.errors import InputError
from influence.progress import track
from influence.run import blocks
from llm_influence.examples import Examples
from llm_influence.of_networks import OfNetworks
from llm_influence.rows import MOST_HELD
from llm_influence.run import CheckpointRun

Floats = NDArray[np.float64]
Metric = Literal["cosine", "dot", "l2"]

AT_ONCE = 512  # training examples compared together


class Similarity(OfNetworks, Attributor[CheckpointRun, Examples]):
    """An attributor whose values compare one vector of each training example and query.

    The training examples' vectors are held in memory where they fit, else worked out again for
    every block of queries.
    """

    unit = "similarity"
    metric: Metric
    _held: Floats | None  # (n_train, width)

    @abstractmethod
    def _vectors(self, run: CheckpointRun, examples: Examples) -> Floats:
        """A vector for each example, shape (n_examples, width)."""

    def _fit(self, run: CheckpointRun) -> None:
        self._held = None
        kept, n_bytes = [], 0
        for _, vectors in self._train_blocks(run):
            kept.append(vectors)
            n_bytes += vectors.nbytes
            if n_bytes > MOST_HELD:
                return
        self._held = np.concatenate(kept)

    def _add_columns(self, queries: Examples, out: Floats) -> None:
        compare = METRICS[self.metric]
        asked = _finite(self._vectors(self.run_, queries), queries)
        for block, vectors in self._train_blocks(self.run_):
            out[block] += compare(vectors, asked)

    def _diagonal(self, train: Examples, rows: slice) -> Floats:
        own = self._vectors(self.run_, train) if self._held is None else self._held[rows]
        return np.diagonal(METRICS[self.metric](own, own))

    def _bytes_per_value(self) -> int:
        return 16

    def _train_blocks(self, run: CheckpointRun) -> Iterator[tuple[slice, Floats]]:
        listed = list(blocks(run.n_train, AT_ONCE))
        if self._held is not None:
            for block in listed:
                yield block, self._held[block]
            return
        for block in track(listed, "vectors", len(listed), self._progress):
            examples = run.examples[block]
            yield block, _finite(self._vectors(run, examples), examples)


def cosine(a: Floats, b: Floats) -> Floats:
    """Cosine of the angle between rows, 0 for a row of zeros, shape (n_a, n_b)."""
    return dot(_unit(a), _unit(b))


def dot(a: Floats, b: Floats) -> Floats:
    """Inner product of rows, shape (n_a, n_b)."""
    return a @ b.T


def l2(a: Floats, b: Floats) -> Floats:
    """1 / (1 + distance) of rows, shape (n_a, n_b)."""
    from scipy.spatial.distance import cdist

    return 1 / (1 + cdist(a, b))


METRICS: dict[str, Callable[[Floats, Floats], Floats]] = {"cosine": cosine, "dot": dot, "l2": l2}


def check_metric(metric: str) -> None:
    """Refuses metrics that there are none of."""
    if metric not in METRICS:
        raise InputError(f"metric must be one of {sorted(METRICS)}, got {metric!r}.")


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _finite(vectors: Floats, examples: Examples) -> Floats:
    if vectors.ndim != 2 or len(vectors) != examples.n_queries:
        raise InputError(
            f"Expected one vector for each of {examples.n_queries} examples, got an array of shape "
            f"{vectors.shape}; give shape (n_examples, width)."
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise InputError(
            f"Expected finite vectors, but that of example {examples.index[bad[0]]!r} is not; "
            "leave it out, or compute in another number type."
        )
    return vectors
