"""`DataShapley`: the loss a row saves on average, over all orders in which rows could be added.

| index | meaning |
|---|---|
| i     | training row |
| q     | query |
| p     | permutation of the rows |
| b     | block of `group` rows, added together |
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from influence import storage
from influence.base import Estimator
from influence.change import Change, Without, removed_weight
from influence.checks import check_whole
from influence.errors import InputError, RetrainingError
from influence.progress import track
from influence.result import Influence
from influence.run import blocks, fingerprint
from tree_influence.losses import LogProbability
from tree_influence.of_trees import OfTrees
from tree_influence.retrain import Retrained, identities
from tree_influence.run import TreeQueries, TreeRun

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

CHECKPOINT = "DataShapley checkpoint"


@dataclass(frozen=True, eq=False)
class Game:
    """What is shared out over the training rows.

    Attributes:
        n_train: Number of training rows.
        players: Those of positive weight.
        empty: Loss of each query without training rows, shape (n_queries,).
        full: Loss of each query with all of them, shape (n_queries,).
        losses: From rows to the queries' losses after training on these; None where they are too
            few to train on.
    """

    n_train: int
    players: Positions
    empty: Floats
    full: Floats
    losses: Callable[[Positions], Floats | None]


class DataShapley(OfTrees, Estimator[TreeRun]):
    """Truncated Monte-Carlo Data Shapley: rows are added one by one in random orders.

    values[i, q] = mean_p ( L_q(rows before i in p) - L_q(these and i) )

    The sum over the rows is the loss without any training less the loss of the model trained on
    all, but for truncation. Sets that no model can be trained on (fewer than `min_rows`, a class
    missing, or targets that are all equal) have the loss of the constant score of least weighted
    mean loss over all training rows: class shares, the mean, the median, as the loss asks.

    With `group` > 1 rows join in blocks b, cut anew out of every permutation. A row then gets an
    even share of its block's effect, from which the other rows' average part is taken out again:
    with n rows, C blocks and S the sum over the rows of the shares v,

        values_i = ((n - 1) v_i - (1 - C / n) S) / (C - 1)

    exact where effects add up; then n / group trainings a permutation in place of n, for more
    noise.

    Sign: positive = proponent: adding the row lowers the loss. Unit: loss. Rows of weight 0 have
    value exactly 0.
    Cost: explain n_permutations times n_train / group trainings, less where truncated; predict as
    much, so use `explain(...).predict(change)`. Memory: three times the values.
    Wrong by sampling noise: the standard error over the permutations is kept for every value in
    `standard_error_`, and the result states its root mean square over the standard deviation of
    the values (`standard_error_over_spread`; well below 1 is needed to tell rows apart). Truncation
    gives 0 to the rows it leaves out.
    The value is no leave-one-out effect: it also counts what a row does among few others.
    Queries are answered together, since truncation goes by their mean loss: another set of queries
    gives other noise. Answers every traced model, also those whose leaves follow no formula.

    Args:
        n_permutations: Random orders, at least 2.
        group: Rows added at a time.
        tolerance: An order ends early once the mean loss of the queries is nearer to that with all
            rows than this share of what training gains; 0 never does.
        max_trainings: No further order is begun after this many trainings, but two there are; None
            for no bound.
        min_rows: Fewer rows train no model; raise it where the library refuses small sets (CatBoost
            does if no feature varies in them).
        seed: Seed of the orders.

    Attributes:
        standard_error_: Of the values explained last, shape (n_train, n_queries).

    Reference: Ghorbani, Zou, "Data Shapley: Equitable Valuation of Data for Machine Learning",
    ICML 2019 (algorithm 1; there the score is the accuracy).
    """

    standard_error_: Floats

    def __init__(
        self,
        n_permutations: int = 100,
        *,
        group: int = 1,
        tolerance: float = 0.01,
        max_trainings: int | None = None,
        min_rows: int = 2,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("n_permutations", n_permutations, 2), ("group", group, 1), ("min_rows", min_rows, 2),
            ("seed", seed, 0), ("max_trainings", 0 if max_trainings is None else max_trainings, 0),
        ):  # fmt: skip
            check_whole(name, value, least)
        if not isinstance(tolerance, int | float | np.number) or not 0 <= tolerance < 1:
            raise InputError(f"tolerance must be a share from 0 to below 1, got {tolerance!r}.")
        self.n_permutations, self.group, self.tolerance = n_permutations, group, tolerance
        self.max_trainings, self.min_rows, self.seed = max_trainings, min_rows, seed

    def _fit(self, run: TreeRun) -> None:
        n_players = int((run.weight > 0).sum())
        if 2 * self.group > n_players:
            raise InputError(
                f"Expected blocks of at most half of the {n_players} rows that were trained on, "
                f"got group={self.group}."
            )

    def explain(
        self,
        *queries: Any,
        checkpoint: str | os.PathLike[str] | None = None,
        n_jobs: int | None = None,
        progress: bool = True,
    ) -> Influence:
        """Shapley value of every training row for every query.

        Args:
            *queries: Query data as the run takes it, e.g. X_test, y_test.
            checkpoint: A file written after every permutation (after `n_jobs` of them at a time),
                from which a later call with the same recipe, rows, queries and parameters goes on;
                n_permutations and max_trainings may have grown.
            n_jobs: Permutations at a time; None leaves it to `joblib.parallel_config`. Values are
                the same to the bit.
            progress: Show a bar on long work.

        Returns:
            Dense values, shape (n_train, n_queries).

        Raises:
            InputError: The checkpoint belongs to another run, other queries or parameters; or a
                setting or column that cannot be told apart by a hash, with a checkpoint.
        """
        run, asked = self._ask(*queries)
        shape = run.n_train, asked.n_queries
        tally, key = Tally(np.zeros(shape), np.zeros(shape)), ""
        if checkpoint is not None:
            own = f"{self.group} {self.tolerance} {self.min_rows} {self.seed}"
            key = fingerprint(*identities(run, asked), own)
            if Path(checkpoint).exists():
                tally = Tally.load(checkpoint, key)
        if not self._is_done(tally):
            walked = self._walked(new_game(run, asked, self.min_rows), tally.n_permutations, n_jobs)
            left = self.n_permutations - tally.n_permutations
            for effects, n_trainings in track(walked, "DataShapley", left, progress):
                tally.add(effects, n_trainings)
                if checkpoint is not None:
                    tally.save(checkpoint, key)
                if self._is_done(tally):
                    break
        self.standard_error_ = tally.standard_error()
        return self._result(run, asked, tally)

    def predict(self, change: Change, *queries: Any) -> Floats:
        """Sum of the values of what a change removes, sum_i (1 - r_i) values[i].

        Args:
            change: `Without` or `Reweighted`.
            *queries: Query data as the run takes it, e.g. X_test, y_test.

        Returns:
            Shape (n_queries,). As dear as `explain`.
        """
        removed = removed_weight(change, self._fitted_run().n_train)
        return removed @ self.explain(*queries, progress=False).values

    def _is_done(self, tally: "Tally") -> bool:
        spent = self.max_trainings is not None and tally.n_trainings >= self.max_trainings
        return tally.n_permutations >= (2 if spent else self.n_permutations)

    def _walked(self, game: Game, first: int, n_jobs: int | None) -> Iterator[tuple[Floats, int]]:
        """Effects of permutation after permutation, and how many trainings each took."""
        from joblib import Parallel, delayed, effective_n_jobs

        at_a_time: Any = n_jobs  # None is allowed, whatever the annotation says
        width = effective_n_jobs(at_a_time)
        with Parallel(n_jobs=n_jobs) as parallel:
            for start in range(first, self.n_permutations, width):
                seeds = range(start, min(start + width, self.n_permutations))
                done: Any = parallel(delayed(self._walk)(game, one) for one in seeds)
                yield from done

    def _walk(self, game: Game, permutation: int) -> tuple[Floats, int]:
        rng = np.random.default_rng([self.seed, permutation])
        return walk(game, rng.permutation(game.players), self.group, self.tolerance)

    def _result(self, run: TreeRun, asked: TreeQueries, tally: "Tally") -> Influence:
        spread = float(np.sqrt(tally.mean[run.weight > 0].var(axis=0).mean()))
        error = float(np.sqrt((self.standard_error_[run.weight > 0] ** 2).mean()))
        stated = {
            "permutations": str(tally.n_permutations),
            "trainings": str(tally.n_trainings),
            "standard_error_over_spread": error / spread if spread > 0 else float("inf"),
        }
        provenance = self.provenance
        provenance = replace(provenance, run={**provenance.run, **stated})
        return Influence(tally.mean, run.train_index, asked.index, provenance)


def walk(game: Game, order: Positions, group: int, tolerance: float) -> tuple[Floats, int]:
    """Effects of adding the players in one order, and how many trainings that took.

    Args:
        game: The game.
        order: A permutation of its players.
        group: Players added at a time.
        tolerance: Share of the whole gain of the mean loss below which the rest gets 0.

    Returns:
        Loss saved by each training row, shape (n_train, n_queries); 0 for rows that do not play.
    """
    n_players, target = len(order), game.full.mean()
    near = tolerance * abs(game.empty.mean() - target)
    shares = np.zeros((n_players, len(game.full)))
    before, n_trainings = game.empty, 0
    listed = list(blocks(n_players, group))
    for block in listed:
        if abs(before.mean() - target) < near:
            break
        after = game.full
        if block.stop < n_players:
            found = game.losses(np.sort(order[: block.stop]))
            after = game.empty if found is None else found
            n_trainings += found is not None
        shares[block] = (before - after) / (block.stop - block.start)
        before = after
    whole, n_blocks = shares.sum(axis=0), len(listed)
    if n_blocks < n_players:
        taken = (1 - n_blocks / n_players) * whole
        shares = ((n_players - 1) * shares - taken) / (n_blocks - 1)
    effects = np.zeros((game.n_train, len(game.full)))
    effects[order] = shares
    return effects, n_trainings


@dataclass
class Tally:
    """Running mean over the permutations, and their spread around it.

    Attributes:
        mean: Mean effect, shape (n_train, n_queries).
        squares: Sum of the squared deviations from the mean, same shape.
        n_permutations: How many there were.
        n_trainings: Trainings they took.
    """

    mean: Floats
    squares: Floats
    n_permutations: int = 0
    n_trainings: int = 0

    def add(self, effects: Floats, n_trainings: int) -> None:
        """Adds one permutation."""
        self.n_permutations += 1
        self.n_trainings += n_trainings
        away = effects - self.mean
        self.mean += away / self.n_permutations
        self.squares += away * (effects - self.mean)

    def standard_error(self) -> Floats:
        """Of the mean, same shape."""
        n = self.n_permutations
        return np.sqrt(self.squares / (n * (n - 1)))

    def save(self, path: str | os.PathLike[str], key: str) -> None:
        """Writes it to a file, atomically."""
        header = {
            "key": key, "permutations": self.n_permutations, "trainings": self.n_trainings,
        }  # fmt: skip
        storage.write(path, CHECKPOINT, header, mean=self.mean, squares=self.squares)

    @classmethod
    def load(cls, path: str | os.PathLike[str], key: str) -> Self:
        """Reads what `save` wrote.

        Raises:
            InputError: It was saved under another key.
        """
        header, arrays = storage.read(path, CHECKPOINT)
        if header["key"] != key:
            raise InputError(
                f"Expected {path} to be a checkpoint of this run, these queries and these "
                "parameters, but it belongs to others. Give another path, or delete the file."
            )
        return cls(
            arrays["mean"], arrays["squares"], header["permutations"], header["trainings"]
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class SetLosses:
    """From training rows to the queries' losses after training on these alone.

    Attributes:
        run: The run whose recipe is trained.
        queries: The queries.
        min_rows: Fewer rows train no model.
    """

    run: TreeRun
    queries: TreeQueries
    min_rows: int

    def __call__(self, rows: Positions) -> Floats | None:
        """Losses, shape (n_queries,); None where no model can be trained."""
        target, classes = self.run.target[rows], self.run.classes
        distinct = len(np.unique(target, axis=0))
        if len(rows) < self.min_rows or distinct < (2 if classes is None else len(classes)):
            return None
        removed = np.delete(np.arange(self.run.n_train), rows)
        try:
            return Retrained.after(Without(removed), self.run).losses(self.queries)
        except (InputError, RetrainingError) as error:
            raise type(error)(
                f"{error} So no model can be trained on some {len(rows)} of the rows: raise "
                f"min_rows, now {self.min_rows}, or group."
            ) from error


def new_game(run: TreeRun, queries: TreeQueries, min_rows: int) -> Game:
    """The game whose players are the training rows of positive weight."""
    empty = run.adapter.loss().value(queries.target, constant_scores(run) + queries.offset)
    full = Retrained.after(Without([]), run).losses(queries)
    players = np.flatnonzero(run.weight > 0)
    return Game(run.n_train, players, empty, full, SetLosses(run, queries, min_rows))


def constant_scores(run: TreeRun) -> Floats:
    """The raw score of least weighted mean loss over the training rows, shape (n_outputs,)."""
    from scipy.optimize import minimize

    loss, weight = run.adapter.loss(), run.weight / run.weight.sum()
    raw = run.adapter.ensemble.raw(run.leaves)
    if isinstance(loss, LogProbability):
        shares = np.bincount(run.target.astype(np.int64), weight, minlength=raw.shape[1])
        return shares.astype(np.float64)

    def mean_loss(scores: Floats) -> float:
        return float(weight @ loss.value(run.target, scores + run.offset))

    found = minimize(
        mean_loss, weight @ raw, method="Powell", options={"xtol": 1e-8, "ftol": 1e-12}
    )
    return np.atleast_1d(found.x)
