"""`LeafSums`: leaves of some rounds with the sums of their rows, from which lambda and eta show."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tree_influence.adapters.base import Floats, LeafRecipe
from tree_influence.ensemble import TreeEnsemble

FITS = 1e-4  # largest leaf error, over the largest leaf, at which lambda and eta are believed
DISTINCT = 1e-5  # ratio of singular values below which float32 leaves do not tell them apart
UNCUT = 1 - 1e-6  # share of the largest leaf below which max_delta_step cut no leaf
TINY = np.finfo(float).tiny


@dataclass(frozen=True, eq=False)
class LeafSums:
    """Leaves of some rounds, with the sums of their rows.

    Attributes:
        value: Stored value, shape (n_leaves,).
        gradient: Weighted sum of gradients, moved towards 0 by alpha, shape (n_leaves,).
        hessian: Weighted sum of Hessians, with the library's factor, shape (n_leaves,).
        max_step: Longest step.
    """

    value: Floats
    gradient: Floats
    hessian: Floats
    max_step: float

    @property
    def uncut(self) -> NDArray[np.bool_]:
        """Leaves that max_delta_step surely left as they are, shape (n_leaves,)."""
        if np.isinf(self.max_step):
            return np.full(len(self.value), True)
        size = np.abs(self.value)
        return size < UNCUT * size.max(initial=0.0)

    def steps(self, l2: float) -> Floats:
        """Newton values with this l2, shape (n_leaves,)."""
        return (-self.gradient / (self.hessian + l2)).clip(-self.max_step, self.max_step)

    def error(self, l2: float, rate: float) -> float:
        """Largest error of the leaves with these parameters, over the largest leaf."""
        gap = np.abs(rate * self.steps(l2) - self.value).max(initial=0.0)
        return float(gap / max(np.abs(self.value).max(initial=0.0), TINY))

    def rate(self, l2: float) -> float:
        """Least squares for value = rate theta; 1 where all leaves are 0."""
        steps = self.steps(l2)
        return float(self.value @ steps / (steps @ steps)) if steps.any() else 1.0

    def solve(self, l2: float | None, rate: float | None) -> tuple[float, float] | None:
        """Least squares for value (H + l2) = -rate G; what is not None is known.

        Returns:
            l2 and rate, in the fewest decimals that fit as well; None where these leaves do not
            tell.
        """
        uncut = self.uncut
        value, gradient, hessian = self.value[uncut], self.gradient[uncut], self.hessian[uncut]
        # Each leaf's equation over its H, so that it weighs what the leaf's value does.
        columns = np.column_stack([value, gradient]) / hessian[:, None]
        unknown = np.array([l2 is None, rate is None])
        target = -value - columns[:, ~unknown] @ np.array([l2, rate])[~unknown].astype(float)
        size = np.linalg.norm(columns[:, unknown], axis=0)
        if len(target) <= unknown.sum() or not (size > 0).all():
            return None
        scaled = columns[:, unknown] / size
        spread = np.linalg.svd(scaled, compute_uv=False)
        if spread[-1] < DISTINCT * spread[0]:
            return None
        solved = np.array([l2, rate], dtype=np.float64)
        solved[unknown] = np.linalg.lstsq(scaled, target, rcond=None)[0] / size
        solved[0] = max(solved[0], 0.0)
        return self._rounded(solved, unknown) if solved[1] > 0 else None

    def _rounded(self, solved: Floats, unknown: NDArray[np.bool_]) -> tuple[float, float]:
        """The same in the fewest decimals: people choose round numbers, float32 blurs them."""
        allowed = 2 * self.error(*solved)
        for decimals in range(9):
            rounded = np.where(unknown, np.round(solved, decimals), solved)
            if self.error(*rounded) <= allowed:
                return float(rounded[0]), float(rounded[1])
        return float(solved[0]), float(solved[1])


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Training rows in the trees of a model, whose leaves they are to explain.

    An iteration is what starts from the same scores: a tree of every output (or one with a value
    for each), times num_parallel_tree.

    Attributes:
        ensemble: The trees.
        recipe: Loss, alpha, max_delta_step, and leaves held at 0.
        held: Values that are 0 whatever their rows, shape (n_leaves, n_values).
        leaves: Leaf of each row, shape (n_trees, n_rows).
        target: Encoded target, shape (n_rows,) or (n_rows, n_targets).
        weight: Shape (n_rows,).
        raw: Scores before the first round, shape (n_rows, n_outputs).
    """

    ensemble: TreeEnsemble
    recipe: LeafRecipe
    held: NDArray[np.bool_]
    leaves: NDArray[np.integer]
    target: Floats
    weight: Floats
    raw: Floats

    def iterations(self) -> Iterator[LeafSums]:
        """Sums of the leaves of every iteration, on the stored leaves of those before it."""
        raw = self.raw
        for i in range(self.ensemble.n_rounds // self.ensemble.n_parallel):
            yield self._sums(i, raw)
            raw = raw + self._added(i)

    def first(self, enough: int) -> LeafSums:
        """Leaves of the first iterations, as many as hold enough that are neither 0 nor cut."""
        parts: list[LeafSums] = []
        for sums in self.iterations():
            parts = [joined([*parts, sums])]
            if (parts[0].uncut & (parts[0].value != 0)).sum() >= enough:
                break
        return parts[0]

    def last(self) -> LeafSums:
        """Leaves of the last iteration."""
        i = self.ensemble.n_rounds // self.ensemble.n_parallel - 1
        reached = self.raw + self.ensemble.raw(self.leaves) - self.ensemble.bias
        return self._sums(i, reached - self._added(i))

    def _trees(self, i: int) -> range:
        width = self.ensemble.trees_per_round * self.ensemble.n_parallel
        return range(i * width, (i + 1) * width)

    def _outputs(self, t: int) -> range:
        """Outputs to which the values of a tree's leaves are added, in their order."""
        if self.ensemble.vector_leaves:
            return range(self.ensemble.n_outputs)
        k = t % self.ensemble.n_outputs
        return range(k, k + 1)

    def _added(self, i: int) -> Floats:
        added = np.zeros_like(self.raw)
        for t in self._trees(i):
            added[:, self._outputs(t)] += self.ensemble.tree_values(t)[self.leaves[t]]
        return added

    def _sums(self, i: int, raw: Floats) -> LeafSums:
        at, weight = self.recipe.loss.derivatives(self.target, raw), self.weight
        parts = []
        for t in self._trees(i):
            own, leaf = slice(*self.ensemble.leaf_start[t : t + 2]), self.leaves[t]
            for place, k in enumerate(self._outputs(t)):
                value = self.ensemble.leaf_value[own, place]
                gradient, hessian = (
                    np.bincount(leaf, weight * rows[:, k], len(value)).astype(np.float64)
                    for rows in (at.gradient, at.hessian)
                )
                gradient -= gradient.clip(-self.recipe.l1, self.recipe.l1)
                told = (hessian > 0) & ~self.held[own, place]
                sums = value[told], gradient[told], hessian[told]
                parts.append(LeafSums(*sums, self.recipe.max_step))
        return joined(parts)


def joined(parts: Iterable[LeafSums]) -> LeafSums:
    """All leaves of these."""
    listed = list(parts)
    value, gradient, hessian = (
        np.concatenate([getattr(part, name) for part in listed])
        for name in ("value", "gradient", "hessian")
    )
    return LeafSums(value, gradient, hessian, listed[0].max_step)
