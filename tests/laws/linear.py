"""A model that is no tree, to show that the laws ask for nothing but the shared API: ridge."""

import contextlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from influence import InnerProduct
from influence.engine import DenseFactor
from influence.run import fingerprint


@dataclass(frozen=True)
class LinearQueries:
    X: np.ndarray
    y: np.ndarray

    @property
    def n_queries(self):
        return len(self.y)

    @property
    def index(self):
        return pd.RangeIndex(len(self.y))

    def __getitem__(self, block):
        return LinearQueries(self.X[block], self.y[block])


class LinearRun:
    provenance = {"library": "none"}  # noqa: RUF012

    def __init__(self, X, y, weight):
        self.X, self.y, self.weight = X, y, weight
        self.hessian = (weight[:, None] * X).T @ X + np.eye(X.shape[1])
        self.beta = np.linalg.solve(self.hessian, (weight * y) @ X)
        self.n_train = len(y)
        self.train_index = pd.RangeIndex(len(y))
        self.fingerprint = fingerprint(X, y, weight)

    def queries(self, X, y):
        return LinearQueries(np.asarray(X), np.asarray(y))

    def train_queries(self):
        return LinearQueries(self.X, self.y)

    def losses(self, queries):
        return 0.5 * (queries.X @ self.beta - queries.y) ** 2


class Newton(InnerProduct):
    """values = w_i g_i H^-1 g_q."""

    @staticmethod
    def _trace(model, *data):
        return LinearRun(*data)

    def _fit(self, run):
        gradient = (run.X @ run.beta - run.y)[:, None] * run.X
        self.train_ = DenseFactor(run.weight[:, None] * gradient)

    def _pairs(self, queries):
        gradient = (queries.X @ self.run_.beta - queries.y)[:, None] * queries.X
        # one column at a time: BLAS may sum a matrix and a vector in different orders
        solved = np.stack([np.linalg.solve(self.run_.hessian, g) for g in gradient])
        yield _ByRow(self.train_.matrix), DenseFactor(solved)

    def _bytes_per_value(self):
        return 8


class _ByRow(DenseFactor):
    def add_product(self, other, out):
        for j, row in enumerate(other.matrix):
            out[:, j] += self.matrix @ row


class LinearProblem:
    duplicates = (3, 8)
    zero_weight = 5
    precision = 0.0
    planted = (0, 1)

    def __init__(self):
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=(40, 3))
        self.y = self.X @ [1.0, -2, 0.5] + rng.normal(size=40)
        self.weight = rng.uniform(0.5, 1.5, 40)
        self.queries = (rng.normal(size=(6, 3)), rng.normal(size=6) + 3)
        self.X[8], self.y[8], self.weight[8] = self.X[3], self.y[3], self.weight[3]
        self.weight[5] = 0.0
        self.X[0], self.y[0] = self.queries[0][1], self.queries[1][1]
        self.train = (self.X, self.y)

    def run(self, order=None):
        rows = slice(None) if order is None else order
        return LinearRun(self.X[rows], self.y[rows], self.weight[rows])

    def part(self, block):
        return tuple(data[block] for data in self.queries)

    def threads(self, n):
        return contextlib.nullcontext()
