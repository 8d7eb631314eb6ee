"""Ridge regression, where retraining is a closed form: no code of ours takes part in it."""

from dataclasses import dataclass, field

import numpy as np

from influence import Relabelled, Reweighted, Without


@dataclass(eq=False)
class Ridge:
    """A retrain function: from a change to effects on the squared-error losses of queries."""

    seed: int = 0
    n_train: int = 24
    n_queries: int = 5
    fails_on: int = -1
    calls: list = field(default_factory=list)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        truth = np.array([1.0, -2.0, 0.5])
        self.X = rng.normal(size=(self.n_train, 3))
        self.y = self.X @ truth + rng.normal(size=self.n_train)
        self.X_test = rng.normal(size=(self.n_queries, 3))
        self.y_test = self.X_test @ truth + rng.normal(size=self.n_queries)
        self.fingerprint = f"ridge {self.seed}"

    def losses(self, weight, y):
        hessian = (weight[:, None] * self.X).T @ self.X + np.eye(3)
        beta = np.linalg.solve(hessian, (weight * y) @ self.X)
        return 0.5 * (self.X_test @ beta - self.y_test) ** 2

    def without(self, rows):
        """Effects of leaving rows out."""
        weight = np.ones(self.n_train)
        weight[np.asarray(rows, dtype=int)] = 0
        return self.losses(weight, self.y) - self.losses(np.ones(self.n_train), self.y)

    def relabelled(self, rows, labels):
        """Effects of other labels."""
        y, ones = self.y.copy(), np.ones(self.n_train)
        y[rows] = labels
        return self.losses(ones, y) - self.losses(ones, self.y)

    def __call__(self, change):
        self.calls.append(change)
        if isinstance(change, Without) and self.fails_on in change.rows:
            raise ZeroDivisionError("this row may not go")
        if isinstance(change, Without):
            return self.without(change.rows)
        if isinstance(change, Relabelled):
            return self.relabelled(change.rows, change.labels)
        assert isinstance(change, Reweighted)
        ones = np.ones(self.n_train)
        return self.losses(change.multipliers, self.y) - self.losses(ones, self.y)

    def values(self):
        """Leave-one-out effects, shape (n_train, n_queries)."""
        return np.stack([self.without([i]) for i in range(self.n_train)])
