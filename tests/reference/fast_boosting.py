"""Boosting on fixed structures with any loss given by its value; imports none of our code.

As `boosting`, but in whole arrays, so that thousands of drawn models can be checked.
"""

from dataclasses import dataclass

import numpy as np

from tests.reference.loss_values import RowLoss


@dataclass
class FixedTrees:
    """A boosting whose structures are held.

    Attributes:
        loss: The training loss.
        leaves: Leaf of each training row, (n_trees, n_train); tree t is of output t % n_outputs,
            or of all outputs where `vector`.
        rate: Learning rate of each tree, (n_trees,).
        l2: Regularisation of each leaf, (n_trees, n_leaves, n_values or 1).
        start: Raw score of each training row before the first tree, (n_train, n_outputs).
        target: (n_train,) or (n_train, n_targets).
        vector: Leaves hold a value for every output.
        full: Leaves solve the full Hessian over the outputs.
        l1: Soft threshold of the gradient sums.
        max_step: Bound of a step's length.
        taken: Share of each Newton step taken, (n_trees, n_steps).
        n_parallel: Trees of each output that start from the same scores.
    """

    loss: RowLoss
    leaves: np.ndarray
    rate: np.ndarray
    l2: np.ndarray
    start: np.ndarray
    target: np.ndarray
    taken: np.ndarray
    vector: bool = False
    full: bool = False
    l1: float = 0.0
    max_step: float = np.inf
    n_parallel: int = 1

    @property
    def n_outputs(self):
        return self.start.shape[1]

    @property
    def width(self):
        """Trees that start from the same scores."""
        return self.n_parallel * (1 if self.vector else self.n_outputs)

    def contributions(self, weight):
        """What each leaf adds after a refit, (n_trees, n_leaves, n_outputs)."""
        out = np.zeros((len(self.leaves), self.l2.shape[1], self.n_outputs))
        raw = self.start.astype(float)
        for first in range(0, len(self.leaves), self.width):
            trees = range(first, first + self.width)
            values = {t: np.zeros(out.shape[1:]) for t in trees}
            for s in range(self.taken.shape[1]):
                inside = raw + sum(values[t][self.leaves[t]] for t in trees if s > 0)
                gradient = self.loss.gradient(self.target, inside)
                hessian = self._hessians(inside)
                for t in trees:
                    values[t] += self.taken[t, s] * self._step(t, gradient, hessian, weight)
            for t in trees:
                out[t] = self.rate[t] * values[t]
            raw = raw + sum(out[t][self.leaves[t]] for t in trees)
        return out

    def _hessians(self, raw):
        if self.full:
            return self.loss.full_hessian(self.target, raw)
        return self.loss.hessian(self.target, raw)

    def _step(self, t, gradient, hessian, weight):
        """Newton step of each leaf of tree t, (n_leaves, n_outputs)."""
        leaf, n_leaves, k = self.leaves[t], self.l2.shape[1], self.n_outputs

        def total(rows):
            sums = np.zeros((n_leaves, *rows.shape[1:]))
            np.add.at(sums, leaf, weight.reshape(-1, *[1] * (rows.ndim - 1)) * rows)
            return sums

        G = total(gradient)
        if self.full:
            H = total(hessian) + self.l2[t][:, :, None] * np.eye(k)
            return -np.linalg.solve(H, G[..., None])[..., 0]
        H = total(hessian) + self.l2[t]
        G = np.sign(G) * np.maximum(np.abs(G) - self.l1, 0)
        step = np.where(H > 0, -G / np.where(H > 0, H, 1), 0.0)
        step = np.clip(step, -self.max_step, self.max_step)
        if not self.vector:
            step[:, np.arange(k) != t % k] = 0.0
        return step

    def raw(self, weight, leaves, start):
        """Raw scores of any rows after a refit, (n_rows, n_outputs)."""
        added = self.contributions(weight)
        return start + sum(added[t][leaves[t]] for t in range(len(added)))

    def influence_of(self, rows, weight, leaves, start, target, step=1e-5):
        """-w_j dL_q / dw_j by central differences of the refit, (len(rows), n_queries)."""
        out = []
        for j in rows:
            ends = []
            for sign in (1, -1):
                moved = weight.copy()
                moved[j] += sign * step
                ends.append(np.real(self.loss.value(target, self.raw(moved, leaves, start))))
            out.append(-weight[j] * (ends[0] - ends[1]) / (2 * step))
        return np.array(out)
