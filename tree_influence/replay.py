"""`Replay`: the boosting computed once more on fixed structures, from the training rows.

| index | runs over |
|---|---|
| r | rounds; t trees (round by round, output by output); s Newton steps inside a tree |
| p | rounds that start from the same scores, `n_parallel` of them (boosted forests) |
| j | training rows; l(j) the leaf of row j |
| l | leaves of a tree, padded to the largest tree |
| k | outputs; v values of a leaf: 1, or one for each output (`vector_leaves`) |

A tree adds learning_rate * V to the raw score, where V is the sum of its Newton steps
theta = -G / (H + l2), each taken at F + V so far. With l1 the numerator is G moved towards 0 by l1;
a step longer than max_step is cut there. Leaves that l1 holds at 0 or that were cut do not move
with their rows: their inverse is 0. Everything later (BoostIn, LeafInfluence) needs only two
numbers for each row and step, the derivatives of the step's numerator

    -(G + theta (H + l2))  by w_j:  -(g_j + theta h~_j)            `direct`
                           by F_j:  -w_j (dg_j + theta dh~_j)      `slope`, times p where coupled

which `backwards` gives from the last round to the first, a few rounds at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from influence.errors import NotYetSupportedError
from tree_influence import replay_kernels
from tree_influence.adapters.base import LeafRecipe
from tree_influence.ensemble import TreeEnsemble
from tree_influence.leaf_error import LeafError, leaf_error
from tree_influence.losses import Derivatives

Floats = NDArray[np.float64]

EXACT = 1e-4  # largest leaf error, in leaf scales, up to which the leaves count as recomputed
CHUNK_BYTES = 64 * 2**20  # memory of the row terms of one chunk of rounds


@dataclass(frozen=True, eq=False)
class RowTerms:
    """Terms of every training row in the Newton steps of a few consecutive rounds.

    Attributes:
        rounds: Which rounds.
        direct: g_j + theta h~_j, shape (n_rounds, n_steps, n_train, n_outputs).
        slope: Same shape. Uncoupled: w_j (dg_j/dF + theta dh~_j/dF). Coupled: what multiplies
            p_k (1[k=m] - p_m), that is 1 + theta_k dh~_k/dp_k, or 1 + theta_k - p.theta with the
            full Hessian.
        coupling: p, same shape; no rounds where outputs do not mix.
    """

    rounds: slice
    direct: Floats
    slope: Floats
    coupling: Floats

    def __getitem__(self, place: int) -> Self:
        """The terms of one of the rounds."""
        r, one = self.rounds.start + place, slice(place, place + 1)
        return type(self)(slice(r, r + 1), self.direct[one], self.slope[one], self.coupling[one])


@dataclass(frozen=True, eq=False)
class Replay:
    """The Newton steps of every tree.

    Attributes:
        ensemble: The trees.
        recipe: How their leaves were computed.
        leaves: Leaf of each training row, shape (n_trees, n_train).
        target: Encoded target, shape (n_train,).
        weight: Row weights, shape (n_train,).
        theta: Newton steps as taken, shape (n_trees, n_steps, n_leaves, n_values).
        inverse: Inverse of H + l2 of each step, times the share of it taken, same shape as theta,
            or with the full Hessian (n_trees, n_steps, n_leaves, n_outputs, n_outputs).
        value: learning_rate * V of each leaf, shape (n_trees, n_leaves, n_values).
        beyond: What the stored value of each leaf has beyond the formula's, same shape; 0 where
            the leaves recompute.
        raw: Raw scores of the training rows after the last round, shape (n_train, n_outputs).
        error: Recomputed against stored leaves.
    """

    ensemble: TreeEnsemble
    recipe: LeafRecipe
    leaves: NDArray[np.integer]
    target: Floats
    weight: Floats
    theta: Floats
    inverse: Floats
    value: Floats
    beyond: Floats
    raw: Floats
    error: LeafError

    def refit(self, target: Floats, weight: Floats, offset: Floats) -> "Replay":
        """The boosting on other targets or weights; structures, rates, l2 and start stay.

        Each leaf's value is the formula's, at scores that the rounds before it reach now, plus
        `beyond`; `theta` holds the formula's steps alone. The error stays that of the model.

        Args:
            target: Encoded target, shape (n_train,).
            weight: Row weights, shape (n_train,).
            offset: As `replay_boosting` takes it, shape (n_train, n_outputs).
        """
        return _forward(replace(self, target=target, weight=weight), offset)

    def trees(self, r: int) -> slice:
        """The trees of round r."""
        return slice(r * self.ensemble.trees_per_round, (r + 1) * self.ensemble.trees_per_round)

    def added(self, r: int, leaves: NDArray[np.integer]) -> Floats:
        """What the rounds that start where r does add to rows, shape (n_rows, n_outputs)."""
        first = r - r % self.ensemble.n_parallel
        rounds = range(first, first + self.ensemble.n_parallel)
        parts = [spread(self.value[self.trees(p)], leaves[self.trees(p)]) for p in rounds]
        return parts[0] if len(parts) == 1 else np.sum(parts, axis=0)

    def raw_before(self, leaves: NDArray[np.integer], offset: Floats) -> Iterator[Floats]:
        """Raw scores before each round and after the last, each of shape (n_rows, n_outputs).

        Args:
            leaves: Shape (n_trees, n_rows).
            offset: What each row's score starts from besides the common start, shape
                (n_rows, n_outputs).
        """
        raw = self.recipe.start + offset
        for r in range(self.ensemble.n_rounds):
            yield raw
            if (r + 1) % self.ensemble.n_parallel == 0:
                raw = raw + self.added(r, leaves)
        yield raw

    def raw_after(self, leaves: NDArray[np.integer], offset: Floats) -> Floats:
        """Raw scores after the last round, shape (n_rows, n_outputs)."""
        raw = np.empty(0)
        for reached in self.raw_before(leaves, offset):
            raw = reached
        return raw

    def of_rows(self, rows: slice | NDArray[np.int64]) -> Self:
        """The same trees, as some of the training rows went through them."""
        leaves, raw = self.leaves[:, rows], self.raw[rows]
        target, weight = self.target[rows], self.weight[rows]
        return replace(self, leaves=leaves, target=target, weight=weight, raw=raw)

    @property
    def chunk(self) -> int:
        """How many rounds of row terms fit into memory at a time."""
        n_arrays = 3 if self._coupled else 2
        return max(1, CHUNK_BYTES // (8 * n_arrays * self.recipe.n_steps * max(1, self.raw.size)))

    @property
    def _coupled(self) -> bool:
        first = self.recipe.loss.derivatives(self.target[:1], self.raw[:1])
        return first.coupling is not None

    def backwards(self, shrunken: bool = False, chunk: int | None = None) -> Iterator[RowTerms]:
        """Row terms from the last round to the first, in chunks of bounded memory.

        Args:
            shrunken: Put learning_rate * theta in place of theta in `direct`.
            chunk: Rounds at a time, if not the `chunk` of these rows.
        """
        n_train, n_outputs = self.raw.shape
        coupled, parallel = self._coupled, self.ensemble.n_parallel
        size = self.chunk if chunk is None else chunk
        raw = self.raw
        stop = self.ensemble.n_rounds
        while stop > 0:
            start = max(0, stop - size)
            shape = (stop - start, self.recipe.n_steps, n_train, n_outputs)
            direct, slope = np.empty(shape), np.empty(shape)
            coupling = np.empty(shape if coupled else (0, *shape[1:]))
            for r in range(stop - 1, start - 1, -1):
                if (r + 1) % parallel == 0:
                    raw = raw - self.added(r, self.leaves)
                for s in range(self.recipe.n_steps):
                    terms = self._step_terms(r, s, raw, shrunken)
                    direct[r - start, s], slope[r - start, s] = terms[:2]
                    if coupled:
                        coupling[r - start, s] = terms[2]
            yield RowTerms(slice(start, stop), direct, slope, coupling)
            stop = start

    def _step_terms(
        self, r: int, s: int, raw: Floats, shrunken: bool
    ) -> tuple[Floats, Floats, Floats | None]:
        """direct, slope and coupling of one Newton step, each of shape (n_train, n_outputs)."""
        trees = self.trees(r)
        leaves, steps = self.leaves[trees], self.theta[trees]
        inside = raw if s == 0 else raw + spread(steps[:, :s].sum(axis=1), leaves)
        theta = spread(steps[:, s], leaves)
        if self.recipe.taken is not None:  # the terms are those of the whole step
            share = self.recipe.taken[trees, s]
            theta = theta / np.where(share > 0, share, 1.0)
        at = self.recipe.loss.derivatives(self.target, inside)
        factor = self.recipe.learning_rate[trees] if shrunken else 1.0
        if self.recipe.full_hessian:
            p = _probabilities(at)
            centred = theta - (p * theta).sum(axis=1, keepdims=True)
            return at.gradient + factor * p * centred, 1 + centred, p
        direct = at.gradient + factor * theta * at.hessian
        if at.coupling is None:
            slope = self.weight[:, None] * (at.curvature + theta * at.hessian_slope)
            return direct, slope, None
        return direct, 1 + theta * at.hessian_slope, at.coupling


def replay_boosting(
    ensemble: TreeEnsemble,
    recipe: LeafRecipe,
    leaves: NDArray[np.integer],
    target: Floats,
    weight: Floats,
    offset: Floats,
    *,
    recompute: bool = False,
) -> Replay:
    """Replays the boosting, on its own leaf values if they are the stored ones, else on the stored.

    Where the formula reproduces the model's leaves, everything is computed in float64 from the
    rows alone, so that derivatives are those of a refit to rounding. Where it does not (row
    subsampling, bounds), each round starts from the scores the model really had, its leaves keep
    their stored values, and the error says how far the formula is from them.

    Args:
        ensemble: The trees.
        recipe: How their leaves were computed.
        leaves: Leaf of each training row, shape (n_trees, n_train).
        target: Encoded target, shape (n_train,).
        weight: Row weights, shape (n_train,).
        offset: What each row's score starts from besides the common start, shape
            (n_train, n_outputs).
        recompute: Take the formula's leaf values, however far from the stored ones: for rows or
            weights that are not those of the training.
    """
    if recipe.full_hessian and (recipe.l2 <= 0).any():
        raise NotYetSupportedError(
            "The full leaf Hessian of a softmax is singular without l2 (l2_leaf_reg=0); train "
            "with l2_leaf_reg above 0."
        )
    if recipe.n_steps > 1 and ensemble.trees_per_round > 1:
        raise NotYetSupportedError(
            f"{recipe.n_steps} Newton steps inside each of several trees of a round are not "
            "answered yet; train with one leaf iteration."
        )
    stored = _stored(ensemble, recipe)
    n_trees, n_leaves, n_values = stored.shape
    full = (n_values,) if recipe.full_hessian else ()
    begun = Replay(
        ensemble, recipe, leaves, target, weight,
        theta=np.zeros((n_trees, recipe.n_steps, n_leaves, n_values)),
        inverse=np.zeros((n_trees, recipe.n_steps, n_leaves, n_values, *full)),
        value=np.zeros_like(stored),
        beyond=np.zeros_like(stored),
        raw=recipe.start + offset,
        error=LeafError(0.0, 0.0),
    )  # fmt: skip
    rate = recipe.learning_rate[:, None, None]
    if recompute or not recipe.inexact_because:
        own = _forward(begun, offset)
        error = leaf_error(leaves, (own.value - stored) / rate, stored / rate)
        if recompute or error.largest <= EXACT:
            return replace(own, error=error)
    kept = _forward(begun, offset, stored)
    found = rate * kept.theta.sum(axis=1)
    excess = (found - stored) / rate
    kept.theta[:, -1] -= excess
    error = leaf_error(leaves, excess, stored / rate)
    return replace(kept, beyond=stored - found, error=error)


def spread(values: Floats, leaves: NDArray[np.integer]) -> Floats:
    """Leaf values of one round handed to rows.

    Args:
        values: Shape (trees of the round, n_leaves, n_values).
        leaves: Shape (trees of the round, n_rows).

    Returns:
        Shape (n_rows, n_outputs).
    """
    if len(values) == 1:
        return values[0][leaves[0]]
    return np.column_stack([tree[:, 0][leaf] for tree, leaf in zip(values, leaves, strict=True)])


def _stored(ensemble: TreeEnsemble, recipe: LeafRecipe) -> Floats:
    """Stored leaf values without what is folded in, shape (n_trees, most leaves, n_values)."""
    padded = np.zeros(
        (ensemble.n_trees, ensemble.leaf_counts.max(initial=1), ensemble.leaf_value.shape[1])
    )
    for t in range(ensemble.n_trees):
        padded[t, : ensemble.leaf_counts[t]] = ensemble.tree_values(t) - recipe.folded[t]
    return padded


def _forward(known: Replay, offset: Floats, stored: Floats | None = None) -> Replay:
    """Replays round after round; leaves take the formula's value plus `known.beyond`.

    Args:
        known: The trees, recipe and rows; its steps and scores are not read.
        offset: As of `replay_boosting`.
        stored: Values the leaves take instead, as `_stored` gives them.
    """
    recipe, leaves, n_values = known.recipe, known.leaves, known.value.shape[2]
    done = replace(
        known,
        theta=np.zeros_like(known.theta),
        inverse=np.zeros_like(known.inverse),
        value=np.zeros_like(known.value),
        raw=recipe.start + offset,
    )
    rate = recipe.learning_rate[:, None, None]
    for r in range(done.ensemble.n_rounds):
        trees = done.trees(r)
        for s in range(recipe.n_steps):
            inside = done.raw
            if s > 0:
                inside = inside + spread(done.theta[trees, :s].sum(axis=1), leaves[trees])
            at = recipe.loss.derivatives(done.target, inside)
            for output, t in enumerate(range(trees.start, trees.stop)):
                share = 1.0 if recipe.taken is None else recipe.taken[t, s]
                outputs = slice(None) if n_values > 1 else slice(output, output + 1)
                theta, inverse = _newton_step(done, t, outputs, at)
                done.theta[t, s], done.inverse[t, s] = share * theta, share * inverse
        if stored is None:
            found = rate[trees] * done.theta[trees].sum(axis=1)
            done.value[trees] = found + known.beyond[trees]
        else:
            done.value[trees] = stored[trees]
        if (r + 1) % done.ensemble.n_parallel == 0:
            np.add(done.raw, done.added(r, leaves), out=done.raw)
    return done


def _newton_step(done: Replay, t: int, outputs: slice, at: Derivatives) -> tuple[Floats, Floats]:
    """theta of each leaf of tree t, shape (n_leaves, n_values), and the inverse of H + l2."""
    recipe, (n_leaves, k) = done.recipe, done.value.shape[1:]
    first, last = done.ensemble.leaf_start[t : t + 2]
    # Leaves beyond the tree's own hold no rows: any l2 will do.
    l2 = np.ones((n_leaves, k))
    l2[: last - first] = recipe.l2[first:last].reshape(last - first, -1)
    rows = at.hessian[:, outputs]
    if recipe.full_hessian:
        p = _probabilities(at)
        rows = (p[:, :, None] * (np.eye(k) - p[:, None, :])).reshape(-1, k * k)
    gradient, hessian = np.zeros((n_leaves, k)), np.zeros((n_leaves, rows.shape[1]))
    replay_kernels.add_leaf_sums(
        done.leaves[t], done.weight, at.gradient[:, outputs], rows, gradient, hessian
    )
    if recipe.full_hessian:
        whole = hessian.reshape(n_leaves, k, k) + l2[:, :, None] * np.eye(k)
        inverse = np.asarray(np.linalg.inv(whole), dtype=np.float64)
        return -np.einsum("lmo,lo->lm", inverse, gradient), inverse
    denominator = hessian + l2
    inverse = np.zeros_like(denominator)
    np.divide(1.0, denominator, out=inverse, where=denominator > 0)
    gradient -= np.clip(gradient, -recipe.l1, recipe.l1)
    theta = -gradient * inverse
    moves = (np.abs(theta) <= recipe.max_step) & ((recipe.l1 == 0) | (gradient != 0))
    return theta.clip(-recipe.max_step, recipe.max_step), np.where(moves, inverse, 0.0)


def _probabilities(at: Derivatives) -> Floats:
    if at.coupling is None:
        raise ValueError("A full leaf Hessian needs a loss whose outputs are coupled.")
    return at.coupling
