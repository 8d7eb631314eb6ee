"""`OrderRetrainer`: what a change of order or weights really does to a recorded run."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from influence.change import Change
from influence.run import fingerprint
from llm_influence.order.run import BatchQueries, OptimizerRun


@dataclass(frozen=True, eq=False)
class OrderRetrainer:
    """From a change to its effect on each query's loss after training again.

    Attributes:
        run: The run; it knows its recipe.
        asked: The queries.
        base: Their losses as trained, shape (n_queries,).
    """

    run: OptimizerRun
    asked: BatchQueries
    base: NDArray[np.float64]

    @property
    def n_train(self) -> int:
        return self.run.n_train

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the run and the queries."""
        return fingerprint("order retraining 1", self.run.fingerprint, self.asked.fingerprint)

    def __call__(self, change: Change) -> NDArray[np.float64]:
        """Change of each query's loss against the recorded training, shape (n_queries,)."""
        return self.run.losses_at(self.run.train(change), self.asked) - self.base
