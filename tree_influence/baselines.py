"""What a method must beat: chance, labels, inputs, and each row's own loss."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor
from influence.baselines import Chance, Keys, key_of, normal
from influence.checks import check_whole
from influence.errors import InputError
from influence.run import fingerprint
from tree_influence.features import Features, Scale
from tree_influence.of_trees import OfTrees
from tree_influence.run import TreeQueries, TreeRun
from tree_influence.signs import sides

Floats = NDArray[np.float64]


class Random(OfTrees, Chance[TreeRun, TreeQueries]):
    """Chance: standard normal values, drawn anew for every row and query.

    A value follows from the seed, the row's position and what the model knows of the query (its
    leaves and truth), so that batches and threads change no bit. Rows of weight 0 have 0.

    Sign: none. Unit: similarity (only ranks). Cost: O(1) a value.
    Answers every traced model.

    Args:
        seed: Seed.
    """

    def _fit(self, run: TreeRun) -> None:
        self._rows = np.arange(run.n_train, dtype=np.uint64)
        self._counted = run.weight > 0

    def _keys(self, queries: TreeQueries) -> Keys:
        return _keys(queries)


class SameClass(OfTrees, Attributor[TreeRun, TreeQueries]):
    """Labels alone: rows of the query's class are proponents, all others opponents.

    Classes: values[i, q] = |r_iq| where the labels are the same, else -|r_iq|, with r as of
    `Random`: the order among rows of one side is chance.
    Numbers: values[i, q] = 1 - d_iq / mean_i d_iq with d_iq = sum_k |y_ik - y_qk| / s_k and s_k the
    standard deviation of target k: rows whose targets are closer than usual are proponents.

    Rows of weight 0 have 0 and count in no mean. Unit: similarity (only ranks). Cost: O(1) a value.
    Answers every traced model.

    Args:
        seed: Seed of the order among rows of one side.

    Reference: Brophy, Hammoudeh, Lowd, "Adapting and Evaluating Influence-Estimation Methods for
    Gradient-Boosted Decision Trees", JMLR 2023 (RandomSL, for classes).
    """

    unit = "similarity"
    _target: Floats  # (n_train, n_targets), over the standard deviations
    _scale: Floats  # (n_targets,)

    def __init__(self, seed: int = 0) -> None:
        check_whole("seed", seed)
        self.seed = seed

    def _fit(self, run: TreeRun) -> None:
        target = run.target.reshape(run.n_train, -1)
        spread = target[run.weight > 0].std(axis=0)
        self._scale = np.where(spread > 0, spread, 1.0)
        self._target = target / self._scale

    def _add_columns(self, queries: TreeQueries, out: Floats) -> None:
        run, key = self.run_, _keys(queries)
        counted, everything = run.weight > 0, slice(0, run.n_train)
        positions = np.arange(run.n_train, dtype=np.uint64)
        for q in range(queries.n_queries):
            one = queries[q : q + 1]
            if run.classes is None:
                out[:, q] += counted * self._closeness(one)
            else:
                size = np.abs(normal(self.seed, positions, key[q]))
                out[:, q] += counted * sides(run, one, everything)[:, 0] * size

    def _diagonal(self, train: TreeQueries, rows: slice) -> Floats:
        counted = self.run_.weight[rows] > 0
        if self.run_.classes is None:
            return counted.astype(np.float64)  # no distance
        positions = np.arange(rows.start, rows.stop, dtype=np.uint64)
        return np.where(counted, np.abs(normal(self.seed, positions, _keys(train))), 0.0)

    def _bytes_per_value(self) -> int:
        return 16

    def _closeness(self, query: TreeQueries) -> Floats:
        """Of every row to one query, shape (n_train,)."""
        truth = query.target.reshape(-1) / self._scale
        distance = np.abs(self._target - truth).sum(axis=1)
        usual = float(distance[self.run_.weight > 0].mean())
        return 1 - distance / (usual if usual > 0 else 1.0)


class InputSimilarity(OfTrees, Attributor[TreeRun, TreeQueries]):
    """Inputs alone: like rows on the query's side are proponents, like rows on the other opponents.

    values[i, q] = s_iq k(x_i, x_q)

    with s = +1 or -1 as `tree_influence.signs.sides` has it (same class; numbers: same side of the
    query's prediction as its truth), and k = 1 / (1 + |x_i - x_q|) ("euclidean") or
    x_i . x_q / (|x_i| |x_q|) ("cosine"; 0 where a row is all mean). Rows are compared as the trees
    see them, after the earlier steps of a Pipeline: numbers less their mean over their standard
    deviation over the training rows; other columns one-hot coded, each scaled to variance 1 as a
    whole. A missing number counts as the mean (infinite ones too), a missing level as a level of
    its own; a marker of missing values that only the library knows (XGBoost's `missing`), and
    levels that are written as numbers, count as the numbers they are. Sparse rows are scaled but
    not centred, and empty cells are 0. Constant columns count nothing.

    Rows of weight 0 have value 0, but count in means. Unit: similarity (only ranks).
    Cost: fit holds the features as float64 (numbers) and codes (levels); O(n_columns) a value.
    Refused where features cannot be read (`InputError`): a catboost Pool with categories, texts or
    embeddings.

    Args:
        measure: "euclidean" or "cosine".

    Reference: Brophy, Hammoudeh, Lowd, "Adapting and Evaluating Influence-Estimation Methods for
    Gradient-Boosted Decision Trees", JMLR 2023 (InputSim).
    """

    unit = "similarity"
    _scale: Scale
    _rows: Features

    def __init__(self, measure: Literal["euclidean", "cosine"] = "euclidean") -> None:
        if measure not in ("euclidean", "cosine"):
            raise InputError(f'measure must be "euclidean" or "cosine", got {measure!r}.')
        self.measure = measure

    def _fit(self, run: TreeRun) -> None:
        self._scale = Scale.of(run.X, run.prefix)
        self._rows = self._scale.read(run.X)

    def _add_columns(self, queries: TreeQueries, out: Floats) -> None:
        asked, everything = self._scale.read(queries.given.X), slice(0, self.run_.n_train)
        signs = sides(self.run_, queries, everything)
        out += (self.run_.weight > 0)[:, None] * signs * self._similarity(self._rows, asked)

    def _diagonal(self, train: TreeQueries, rows: slice) -> Floats:
        counted = self.run_.weight[rows] > 0
        if self.measure == "cosine":
            counted &= self._rows[rows].squares() > 0
        return counted.astype(np.float64)  # a row is like itself, and on its own side

    def _bytes_per_value(self) -> int:
        return 32

    def _similarity(self, rows: Features, asked: Features) -> Floats:
        """Shape (n_rows, n_asked)."""
        squared = rows.squared_distances(asked)
        if self.measure == "euclidean":
            return 1 / (1 + np.sqrt(squared))
        own, theirs = rows.squares()[:, None], asked.squares()
        length = np.sqrt(own * theirs)
        product = 0.5 * (own + theirs - squared)
        return np.divide(product, length, out=np.zeros_like(product), where=length > 0)


class TrainingLoss(OfTrees, Attributor[TreeRun, TreeQueries]):
    """Each training row's own loss: rows the model fits badly are opponents of every query.

    values[i, q] = mean_j L_j - L_i, whatever the query; the mean is over rows of weight above 0,
    so that rows of weight 0, which have 0, rank in the middle.

    `self_influence` is L_i, not the diagonal of these: leaving a badly fitted row out raises its
    own loss. As a ranking for mislabelled rows it is what other self influences must beat.

    Unit: similarity (only ranks); `self_influence` in units of loss. Cost: one pass over the rows.
    Refused where the loss is not known for each row (custom objectives, ranking).
    """

    unit = "similarity"
    _losses: Floats  # (n_train,), 0 for rows of weight 0
    _values: Floats  # (n_train,)

    def _fit(self, run: TreeRun) -> None:
        losses, counted = run.losses(run.train_queries()), run.weight > 0
        self._losses = counted * losses
        self._values = counted * (losses[counted].mean() - losses)

    def _add_columns(self, queries: TreeQueries, out: Floats) -> None:
        out += self._values[:, None]

    def _diagonal(self, train: TreeQueries, rows: slice) -> Floats:
        return self._losses[rows]

    def _bytes_per_value(self) -> int:
        return 8


def _keys(queries: TreeQueries) -> Keys:
    """A number for each query, of its leaves, truth and offset, shape (n_queries,)."""
    found = [
        fingerprint(
            queries.leaves[:, q].astype(np.int64), np.atleast_1d(queries.target[q]),
            queries.offset[q],
        )
        for q in range(queries.n_queries)
    ]  # fmt: skip
    return np.array([key_of(one) for one in found], dtype=np.uint64)
