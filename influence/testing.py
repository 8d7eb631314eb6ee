"""The laws every attributor obeys, as functions anybody can run over their own.

A law takes a way to make the estimator and a `Problem`, and raises `AssertionError` with the bug
that the failure suggests. `check_attributor` runs them all.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor
from influence.change import Reweighted, Without
from influence.result import Influence, strongest
from influence.run import Run
from influence.top import TopInfluence

Make = Callable[[], Attributor[Any, Any]]


class Problem(Protocol):
    """A small trained model, and what is known about its rows.

    Attributes:
        train: The training rows in the form queries take.
        queries: Query data.
        duplicates: Positions of two equal training rows (features, label, weight).
        zero_weight: Position of a training row of weight 0; None where rows have no weights.
        precision: What equal answers may differ by, relative to the largest value: 0 asks for the
            same bits; sums of floating point numbers in another order need more.
        planted: A training row and a query: the query is mispredicted, and the row is a copy of
            it that carries the true label.
    """

    train: tuple[Any, ...]
    queries: tuple[Any, ...]
    duplicates: tuple[int, int]
    zero_weight: int | None
    precision: float
    planted: tuple[int, int]

    def run(self, order: NDArray[np.int64] | None = None) -> Run:
        """The run, with the training rows in another order if one is given."""
        ...

    def part(self, block: slice) -> tuple[Any, ...]:
        """Some of the queries."""
        ...

    def threads(self, n: int) -> AbstractContextManager[Any]:
        """Limits the estimator to n threads."""
        ...


def explained(make: Make, problem: Problem) -> NDArray[np.float64]:
    return make().fit(problem.run()).explain(*problem.queries).values


def permutation(make: Make, problem: Problem) -> None:
    """Another order of the training rows permutes the values."""
    values = explained(make, problem)
    order = np.random.default_rng(0).permutation(len(values))
    permuted = make().fit(problem.run(order)).explain(*problem.queries).values
    _close(permuted, values[order], "rows are tied to their positions instead of their content")


def duplicates(make: Make, problem: Problem) -> None:
    """Equal rows have equal influence."""
    values = explained(make, problem)
    first, second = problem.duplicates
    _close(values[first], values[second], "something besides a row's content enters its influence")


def batching(make: Make, problem: Problem) -> None:
    """Queries asked one by one get the same answer as all at once."""
    values = explained(make, problem)
    estimator = make().fit(problem.run())
    for j in range(values.shape[1]):
        alone = estimator.explain(*problem.part(slice(j, j + 1))).values[:, 0]
        _equal(alone, values[:, j], problem, f"query {j} depends on the queries beside it")


def threads(make: Make, problem: Problem) -> None:
    """The number of threads changes nothing."""
    values = []
    for n in (1, 2):
        with problem.threads(n):
            values.append(explained(make, problem))
    hint = "two threads write to the same element, or sum in another order"
    _equal(values[0], values[1], problem, hint)


def same_bits(make: Make, problem: Problem) -> None:
    """The same seed gives the same bits."""
    _same(explained(make, problem), explained(make, problem), "something random has no seed")


def top_k(make: Make, problem: Problem) -> None:
    """`explain_top` is the sorted dense answer."""
    values = explained(make, problem)
    top = make().fit(problem.run()).explain_top(*problem.queries, k=5)
    for rows, found, sign in (
        (top.highest_rows, top.highest, 1.0),
        (top.lowest_rows, top.lowest, -1.0),
    ):
        expected_rows, expected = strongest(values, 5, sign)
        _same(rows, expected_rows, "the streamed top-k lost or misplaced a row")
        _same(found, expected, "the streamed values differ from the dense ones")


def diagonal(make: Make, problem: Problem) -> None:
    """`self_influence` is the diagonal of explaining the training rows."""
    estimator = make().fit(problem.run())
    dense = estimator.explain(*problem.train).values
    own = estimator.self_influence()
    _close(own, np.diagonal(dense), "the training rows as queries take another path than queries")


def round_trip(make: Make, problem: Problem) -> None:
    """Saving and loading changes nothing."""
    estimator = make().fit(problem.run())
    dense, top = estimator.explain(*problem.queries), estimator.explain_top(*problem.queries, k=3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.npz"
        dense.save(path)
        loaded = Influence.load(path)
        top.save(path)
        loaded_top = TopInfluence.load(path)
    _same(loaded.values, dense.values, "storage loses precision")
    assert loaded.provenance == dense.provenance, "provenance does not survive storage"
    assert loaded.train_index.equals(dense.train_index), "the train index does not survive storage"
    assert loaded.query_index.equals(dense.query_index), "the query index does not survive storage"
    assert loaded_top.proponents().equals(top.proponents()), "a ranking does not survive storage"


def zero_weight(make: Make, problem: Problem) -> None:
    """A row of weight 0 took no part in training, so its influence is 0."""
    if problem.zero_weight is None:
        return
    values = explained(make, problem)[problem.zero_weight]
    _same(values, np.zeros_like(values), "the row's weight is not a factor of its influence")


def additivity(make: Make, problem: Problem) -> None:
    """Effects of changes of weights add over rows."""
    estimator = make().fit(problem.run())
    values = estimator.explain(*problem.queries).values
    rows = np.arange(0, len(values), 3)
    together = estimator.predict(Without(rows), *problem.queries)
    _close(together, values[rows].sum(axis=0), "predict disagrees with explain")
    multipliers = np.random.default_rng(0).uniform(0, 2, len(values))
    effect = estimator.predict(Reweighted(multipliers), *problem.queries)
    _close(effect, (1 - multipliers) @ values, "Reweighted is not sum (1 - r_i) values[i]")
    nothing = estimator.predict(Without([]), *problem.queries)
    _same(nothing, np.zeros_like(nothing), "a change of nothing has an effect")


def planted(make: Make, problem: Problem) -> None:
    """A copy of a mispredicted query with the true label is a proponent: the sign is right."""
    row, query = problem.planted
    value = explained(make, problem)[row, query]
    assert value > 0, f"the copy has influence {value:.3g}: the sign is turned around"


LAWS: tuple[Callable[[Make, Problem], None], ...] = (
    permutation, duplicates, batching, threads, same_bits, top_k, diagonal, round_trip,
    zero_weight, additivity, planted,
)  # fmt: skip


def check_attributor(make: Make, problem: Problem) -> None:
    """Runs every law.

    Args:
        make: Makes an unfitted estimator, e.g. its class.
        problem: A trained model and what is known about its rows.

    Raises:
        AssertionError: A law is broken; the message names it and the bug it suggests.
    """
    for law in LAWS:
        try:
            law(make, problem)
        except AssertionError as error:
            raise AssertionError(f"{make()!r} breaks the law of {law.__name__}: {error}") from error


def _close(found: NDArray[Any], expected: NDArray[Any], hint: str) -> None:
    gap = float(np.abs(found - expected).max())
    scale = float(np.abs(expected).max())
    assert gap <= 1e-6 * scale, f"off by {gap:.2g} where the largest value is {scale:.2g}: {hint}"


def _equal(found: NDArray[Any], expected: NDArray[Any], problem: Problem, hint: str) -> None:
    if problem.precision == 0:
        _same(found, expected, hint)
        return
    gap, scale = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    assert gap <= problem.precision * scale, f"off by {gap:.2g} of {scale:.2g}: {hint}"


def _same(found: NDArray[Any], expected: NDArray[Any], hint: str) -> None:
    assert np.array_equal(found, expected), f"not equal to the bit: {hint}"
