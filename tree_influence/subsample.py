"""`SubSample`: mean loss over models trained without a row, minus that over models with it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor
from influence.change import Without
from influence.checks import check_share, check_whole
from influence.errors import InputError
from influence.progress import track
from tree_influence.adapters.base import Adapter, GivenRows
from tree_influence.of_trees import OfTrees
from tree_influence.retrain import Retrained, check_spare_rows
from tree_influence.run import TreeQueries, TreeRun

Floats = NDArray[np.float64]


class SubSample(OfTrees, Attributor[TreeRun, TreeQueries]):
    """Leave-one-out in expectation over random subsets of the training rows.

    values[i, q] = mean_{m: i not in S_m} L_q(model_m) - mean_{m: i in S_m} L_q(model_m)

    Each subset S_m keeps the share `keep` of the rows of every class. Which rows are left out is
    random, but every row is left out equally often (up to once), so that no row lacks a model with
    or without it. Rows of weight 0 are in no subset and have influence exactly 0.

    Sign: positive = proponent. Unit: loss; that of a row among `keep` times as many rows, whose
    effect is larger than among all.
    Cost: fit `n_models` trainings, at a time as `joblib.parallel_config` says; explain and
    self_influence one prediction of the queries by each model and O(n_models n_train) a query.
    Memory: the models.
    Wrong by sampling noise: `standard_error` says how far; it falls with sqrt(n_models). Equal rows
    are in other subsets, so their values differ by that noise.
    Answers every traced model, also those whose leaves follow no formula.
    Refused where a class has one row only (`InputError`).

    Args:
        n_models: Number of subsets; each row must be left out of, and kept in, two or more.
        keep: Share of the rows in each subset.
        seed: Seed of the subsets.

    References: Feldman, Zhang, "What Neural Networks Memorize and Why", NeurIPS 2020 (eq. 3, with
    the loss in place of the accuracy); Brophy, Hammoudeh, Lowd, "Adapting and Evaluating
    Influence-Estimation Methods for Gradient-Boosted Decision Trees", JMLR 2023 (SubSample).
    """

    models_: list[Retrained]
    member_: NDArray[np.bool_]  # (n_models, n_train)
    _share: Floats  # (n_models, n_train)

    def __init__(self, n_models: int = 400, keep: float = 0.7, seed: int = 0) -> None:
        check_share("keep", keep)
        check_whole("n_models", n_models, 4)
        check_whole("seed", seed)
        self.n_models, self.keep, self.seed = n_models, keep, seed

    def _fit(self, run: TreeRun) -> None:
        check_spare_rows(run)
        member = draw_subsets(run, self.n_models, self.keep, self.seed)
        counted = run.weight > 0
        n_in = member[:, counted].sum(axis=0)
        fewest = int(min(n_in.min(), self.n_models - n_in.max()))
        if fewest < 2:
            raise InputError(
                "Expected every row to be left out of two models and kept in two, but with "
                f"n_models={self.n_models} and keep={self.keep} some row has only {fewest} of "
                "one kind. Raise n_models, or move keep towards 0.5."
            )
        share = np.where(member, -1.0 / member.sum(axis=0).clip(1), 0.0)
        out = ~member & counted
        self._share = np.where(out, 1.0 / out.sum(axis=0).clip(1), share)
        self.member_, self.models_ = member, _trained(run, member, self._progress)

    def standard_error(self, *queries: Any, progress: bool = True) -> Floats:
        """Standard error of each value, shape (n_train, n_queries); 0 for rows of weight 0.

        sqrt(var_out / n_out + var_in / n_in), the variances over the models without and with the
        row, as if subsets were drawn independently: leaving rows out equally often makes it a
        little too small, most so at keep = 0.5 (an eighth, on small models).

        Args:
            *queries: Query data as the run takes it, e.g. X_test, y_test.
            progress: Show a bar on long work.
        """
        run, asked = self._ask(*queries)
        errors = np.zeros((asked.n_queries, run.n_train)).T
        for block in self._tracked_blocks(asked.n_queries, progress):
            losses = self._losses(asked[block])
            losses -= losses.mean(axis=0)
            for side in (self.member_, ~self.member_):
                chosen = (side & (run.weight > 0)).astype(np.float64)
                n = chosen.sum(axis=0).clip(2)[:, None]
                spread = chosen.T @ losses**2 - (chosen.T @ losses) ** 2 / n
                errors[:, block] += np.maximum(spread, 0.0) / ((n - 1) * n)
        return np.sqrt(errors)

    def _add_columns(self, queries: TreeQueries, out: Floats) -> None:
        for share, losses in zip(self._share, self._losses(queries), strict=True):
            out += share[:, None] * losses  # one by one, so that batches change no bit

    def _diagonal(self, train: TreeQueries, rows: slice) -> Floats:
        return (self._share[:, rows] * self._losses(train)).sum(axis=0)

    def _bytes_per_value(self) -> int:
        return 32

    def _losses(self, queries: TreeQueries) -> Floats:
        """Loss of each query by each model, shape (n_models, n_queries)."""
        return np.stack([model.losses(queries) for model in self.models_])


def draw_subsets(run: TreeRun, n_models: int, keep: float, seed: int) -> NDArray[np.bool_]:
    """Which rows each model is trained on, shape (n_models, n_train).

    Of every class (of all rows, in regression) as many are left out as come nearest to the share,
    but at least one, and one stays: those left out least often so far, ties broken at random.

    Args:
        run: The run; rows of weight 0 are in no subset.
        n_models: Number of subsets.
        keep: Share of the rows kept.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    of_class = np.zeros(run.n_train) if run.classes is None else run.target
    member = np.tile(run.weight > 0, (n_models, 1))
    for label in np.unique(of_class):
        rows = np.flatnonzero((of_class == label) & (run.weight > 0))
        n_removed = int(np.clip(round((1 - keep) * len(rows)), 1, len(rows) - 1))
        n_left_out = np.zeros(len(rows))
        for m in range(n_models):
            chosen = np.argsort(n_left_out + rng.uniform(size=len(rows)))[:n_removed]
            n_left_out[chosen] += 1
            member[m, rows[chosen]] = False
    return member


def _trained(run: TreeRun, member: NDArray[np.bool_], progress: bool) -> list[Retrained]:
    """One model for each subset. They hold no rows, so that many fit into memory."""
    from joblib import Parallel, delayed

    jobs = (delayed(_train)(run, np.flatnonzero(~one)) for one in member)
    made: Any = Parallel(return_as="generator")(jobs)
    none = GivenRows(None, run.y[:0])
    return [
        Retrained(run, adapter, prefix, np.flatnonzero(one), none)
        for one, (adapter, prefix) in zip(
            member, track(made, "SubSample", len(member), progress), strict=True
        )
    ]


def _train(run: TreeRun, removed: NDArray[np.int64]) -> tuple[Adapter, Any]:
    """A new model and the earlier steps of its Pipeline, without the run they came from."""
    model = Retrained.after(Without(removed), run)
    return model.adapter, model.prefix
