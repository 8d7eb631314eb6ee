"""`Averaged`: another estimator's values, averaged over models of random halves of the rows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor, Relabels
from influence.change import Relabelled, Without
from influence.checks import check_whole
from influence.errors import InputError, UnsupportedChangeError, UnsupportedModelError
from influence.progress import track
from tree_influence.halves import half_run, random_halves
from tree_influence.of_trees import OfTrees
from tree_influence.retrain import as_given
from tree_influence.run import TreeQueries, TreeRun

Floats = NDArray[np.float64]


class Averaged(OfTrees, Attributor[TreeRun, TreeQueries], Relabels):
    """The mean of an estimator's values over models of random halves of the rows.

    values = (1 / K) sum_k values of the estimator on model k,

    where model k is the run's recipe trained on half of the rows, and the estimator is asked at
    weight 1/2 of all rows in the trees of that model, so that each row has a value in each. One
    model's values inherit the accidents of its splits; the mean does not. With an estimator that
    follows leaf values (`LeafInfluence`) this is what removal and the linear datamodelling score
    need most.

    Models 1 and 2, 3 and 4 ... are of the two halves of one division of the rows. For a classifier
    each class is divided by itself. Pipeline steps are fitted again with each model; where the
    estimator is refused by a model, so is the whole. Answers `Relabelled` where the estimator does.

    The largest leaf error of the halves' models is stated in every result.

    Sign: positive = proponent. Unit: that of the estimator. A removal of weight 1 from n rows is
    taken to do what a removal of weight 1/2 from n / 2 does (exact without l2).
    Cost: fit K trainings on half of the rows (through joblib: `joblib.parallel_config(n_jobs=...)`)
    and K fits of the estimator, all kept; explain K times the estimator's.

    Args:
        estimator: What is asked; it is not fitted itself.
        n_models: K. `python -m benchmarks.lds` measures 5 and 20.
        seed: Seed of the halves.
    """

    members_: list[Attributor[TreeRun, TreeQueries]]

    def __init__(
        self, estimator: Attributor[TreeRun, TreeQueries], n_models: int = 20, seed: int = 0
    ) -> None:
        if not isinstance(estimator, Attributor) or isinstance(estimator, Averaged):
            raise InputError(
                "Expected an estimator whose values add over rows, e.g. "
                f"Averaged(LeafInfluence()), got {estimator!r}."
            )
        check_whole("n_models", n_models, 1)
        check_whole("seed", seed)
        self.estimator = estimator
        self.n_models = n_models
        self.seed = seed
        self.unit = estimator.unit

    def _fit(self, run: TreeRun) -> None:
        from joblib import Parallel, delayed

        halves = random_halves(run, self.n_models, self.seed)
        jobs = (delayed(_member)(self.estimator, run, half) for half in halves)
        fitted: Any = Parallel(return_as="generator")(jobs)
        self.members_ = list(track(fitted, "training halves", self.n_models, self._progress))
        errors = [error for member in self.members_ if (error := _leaf_error(member)) is not None]
        self.findings_ = {"halves_leaf_error_largest": max(errors)} if errors else {}

    def _add_columns(self, queries: TreeQueries, out: Floats) -> None:
        total = np.zeros(out.shape[::-1]).T
        for member, asked in self._asked(queries):
            member._add_columns(asked, total)
        out += total / self.n_models

    def _relabelled(self, change: Relabelled, queries: TreeQueries) -> Floats:
        effect = np.zeros(queries.n_queries)
        for member, asked in self._asked(queries):
            if not isinstance(member, Relabels):
                raise UnsupportedChangeError(
                    f"{type(member).__name__} does not answer Relabelled, so its average does not "
                    "either. BoostIn, LeafInfluence, SplitInfluence and their averages do."
                )
            # a member's rows weigh half of theirs, as in `values`
            effect += member._relabelled(change, asked)
        return effect / self.n_models

    def _asked(
        self, queries: TreeQueries
    ) -> Iterator[tuple[Attributor[TreeRun, TreeQueries], TreeQueries]]:
        """Every member, and the queries as queries of its model."""
        rows = queries.given
        for member in self.members_:
            run = member.run_
            yield member, run.read(as_given(rows, self.run_.adapter, run.adapter), queries.index)

    def _diagonal(self, train: TreeQueries, rows: slice) -> Floats:
        total = np.zeros(train.n_queries)
        for member in self.members_:
            total += member._diagonal(member.run_.train_queries()[rows], rows)
        return total / self.n_models

    def _bytes_per_value(self) -> int:
        return 8 + max(member._bytes_per_value() for member in self.members_)


def _leaf_error(member: Attributor[TreeRun, TreeQueries]) -> float | None:
    """Largest leaf error of a half's model; None where its leaves follow no formula."""
    try:
        return member.run_.replay.error.largest
    except UnsupportedModelError:
        return None


def _member(
    estimator: Attributor[TreeRun, TreeQueries], run: TreeRun, half: Without
) -> Attributor[TreeRun, TreeQueries]:
    """A copy of the estimator, fitted to the model of one half."""
    return type(estimator)(**estimator.parameters).fit(half_run(run, half), progress=False)
