"""A small model of named columns for the traps, of any library."""

import numpy as np
import pandas as pd

from tests.tree_influence import models
from tree_influence import trace

NAMES = ["a", "b", "c", "d"]


class Case:
    """A model of named columns with its rows; what a trap changes is given by name."""

    def __init__(self, library, task):
        self.library, self.task = library, task
        X, y, X_test, y_test = models.make_data(task, n_train=120, n_test=6, seed=1)
        self.X, self.X_test = (pd.DataFrame(part, columns=NAMES) for part in (X, X_test))
        self.y, self.y_test = y, y_test
        self.weight = np.random.default_rng(1).uniform(0.2, 3.0, len(y))
        self.model = models.make(library, task, n_trees=4)
        self.model.fit(self.X, y, sample_weight=self.weight)

    def trace(self, **changed):
        given = {"model": self.model, "X": self.X, "y": self.y, "weight": self.weight, **changed}
        return trace(given["model"], given["X"], given["y"], given["weight"], given.get("params"))
