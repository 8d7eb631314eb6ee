"""One model on one problem with its retrainings, and one method's answers about it.

Everything is worked out when it is first asked for, so that what is on disk already costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.study import models, problems
from benchmarks.study.scales import Scale
from influence import (
    Campaign,
    Influence,
    Without,
    far_end,
    leave_one_out,
    next_class,
    random_subsets,
)
from influence.errors import UnsupportedModelError
from influence.measuring import Measured, measured
from tree_influence import TreeRun, retrainer, trace
from tree_influence.methods import Method

Floats = NDArray[np.float64]


@dataclass(eq=False)
class Subject:
    """A model of one library on one data set.

    Attributes:
        data: Name of the data set.
        library: Name of the library.
        scale: Sizes.
        cache: Folder that keeps every retraining.
        seed: Seed of everything drawn.
    """

    data: str
    library: str
    scale: Scale
    cache: Path
    seed: int

    @cached_property
    def problem(self) -> problems.Problem:
        return problems.load(self.data, self.scale, self.seed)

    @cached_property
    def run(self) -> TreeRun:
        return self._traced(self.problem)

    @cached_property
    def of_queries(self) -> Campaign:
        """From a change to the effects on the queries."""
        return self._campaign(self.problem.queries)

    @cached_property
    def of_scored(self) -> Campaign:
        """From a change to the effects on the held-out rows that are scored."""
        return self._campaign(self.problem.scored)

    @cached_property
    def single_rows(self) -> tuple[Sequence[Any], Floats]:
        """Changes that leave out one row each, and their effects on the queries."""
        n_train, rng = self.run.n_train, np.random.default_rng(self.seed)
        rows = rng.choice(n_train, min(self.scale.loo, n_train), replace=False)
        changes = leave_one_out(n_train, rows)
        return changes, self.of_queries.effects(changes)

    @cached_property
    def half_subsets(self) -> tuple[Sequence[Any], Floats]:
        """Changes that leave out half of the rows each, and their effects on the queries."""
        changes = random_subsets(self.run.n_train, 0.5, self.scale.subsets, self.seed)
        return changes, self.of_queries.effects(changes)

    @cached_property
    def other_labels(self) -> NDArray[Any]:
        """The label every training row would be given, shape (n_train,)."""
        y = self.problem.train[1]
        return far_end(y) if self.problem.task == "regression" else next_class(y)

    @cached_property
    def corrupted(self) -> tuple[TreeRun, NDArray[np.int64]]:
        """A model trained on partly wrong labels, and the rows that have them."""
        problem, rows = self.problem.corrupted(self.scale.wrong, self.seed)
        return self._traced(problem), rows

    def _traced(self, problem: problems.Problem) -> TreeRun:
        model = models.make(self.library, problem.task, self.scale, self.seed)
        return trace(model.fit(*problem.train), *problem.train)

    def _campaign(self, rows: problems.Rows) -> Campaign:
        retrain = retrainer(self.run, *rows)
        return Campaign(retrain, self.cache, n_jobs=1, progress=False, on_error="nan")


@dataclass(eq=False)
class Answers:
    """What one method says of a subject.

    Attributes:
        method: How its estimator is made.
        subject: The model and its problem.
    """

    method: Method
    subject: Subject

    @cached_property
    def cost(self) -> Measured[tuple[Any, Influence]]:
        """The fitted estimator and its answer on the queries, timed."""
        if not self.method.trains:
            fitted = self.method.estimator(self.subject.seed).fit(self.subject.run)
            fitted.predict(Without([0]), *self.subject.problem.queries)  # compiles
        return measured(self._explained)

    @property
    def explained(self) -> Influence:
        """Influence on the queries."""
        return self.cost.result[1]

    @cached_property
    def total(self) -> Floats:
        """Influence summed over the validation rows, shape (n_train,)."""
        fitted = self.cost.result[0]
        return fitted.explain(*self.subject.problem.validation, progress=False).total()

    @cached_property
    def suspicion(self) -> Floats:
        """Self influence in the model of partly wrong labels, shape (n_train,)."""
        estimator = self.method.estimator(self.subject.seed)
        own = getattr(estimator, "self_influence", None)
        if own is None:
            raise UnsupportedModelError(f"{type(estimator).__name__} has no self influence.")
        estimator.fit(self.subject.corrupted[0])
        return own(progress=False)

    def _explained(self) -> tuple[Any, Influence]:
        fitted = self.method.estimator(self.subject.seed).fit(self.subject.run)
        return fitted, fitted.explain(*self.subject.problem.queries, progress=False)
