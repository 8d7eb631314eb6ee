"""A problem for the laws on small models of every library and task."""

import contextlib
from functools import lru_cache

import numba
import numpy as np

from tests.tree_influence import models
from tree_influence import trace


class TreeProblem:
    duplicates = (3, 30)
    zero_weight = 7
    precision = 0.0

    def __init__(self, library, task):
        X, y, X_test, y_test = models.make_data(task, n_train=80, seed=3)
        weight = np.random.default_rng(0).uniform(0.5, 1.5, len(y))
        X[30], y[30], weight[30] = X[3], y[3], weight[3]
        weight[7] = 0.0
        row, query = self.planted = (int(np.argmin(np.abs(X[:, 0] + X[:, 1] * X[:, 2] - 1.3))), 2)
        weight[row] = 0.3
        y[row] = -3.0 if task == "squared" else 0
        X_test[query], y_test[query] = X[row], y[row]
        self.model = models.make(library, task, n_trees=4)
        self.model.fit(X, y, sample_weight=weight)
        self.X, self.y, self.weight = X, y, weight
        self.queries, self.train = (X_test, y_test), (X, y)

    @lru_cache(maxsize=1)  # noqa: B019 - a handful of problems, each used by many laws
    def as_fitted(self):
        return trace(self.model, self.X, self.y, self.weight)

    def run(self, order=None):
        if order is None:
            return self.as_fitted()
        return trace(self.model, self.X[order], self.y[order], self.weight[order])

    def part(self, block):
        return tuple(data[block] for data in self.queries)

    @contextlib.contextmanager
    def threads(self, n):
        before = numba.get_num_threads()
        numba.set_num_threads(n)
        try:
            yield
        finally:
            numba.set_num_threads(before)
