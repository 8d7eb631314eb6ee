"""Slow oracles for boosting on fixed structures, from the equations; import none of our code.

A boosting is described by plain arrays: leaves (n_rounds, n_trees_per_round, n_rows), learning
rates, l2, the loss's name, and how leaves are solved. Everything is float64 and loops.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass
class Boosting:
    loss: str  # "squared", "logistic", "one_vs_all", "softmax", "poisson", "gamma"
    n_outputs: int
    leaves: np.ndarray  # (n_rounds, n_trees, n_train); n_trees = n_outputs, or 1 if vector leaves
    n_leaves: int
    rate: np.ndarray  # (n_rounds, n_trees)
    l2: np.ndarray  # (n_rounds, n_trees, n_leaves)
    start: np.ndarray  # (n_outputs,)
    target: np.ndarray
    hessian_scale: float = 1.0
    n_steps: int = 1
    full: bool = False  # vector leaves that solve the full Hessian
    vector: bool = False  # vector leaves, each output on its own
    l1: float = 0.0
    max_step: float = np.inf
    offset: np.ndarray | float = 0.0  # of the training rows, (n_train, n_outputs)
    n_parallel: int = 1  # consecutive rounds that start from the same scores

    @property
    def n_values(self):
        return self.n_outputs if self.full or self.vector else 1


def gradient_and_hessian(loss, y, score):
    """One row: dL/dF (K,) and d2L/dF2 (K, K)."""
    if loss == "squared":
        return np.array([score[0] - y]), np.array([[1.0]])
    if loss == "logistic":
        p = 1 / (1 + np.exp(-score[0]))
        return np.array([p - y]), np.array([[p * (1 - p)]])
    if loss == "poisson":
        return np.array([np.exp(score[0]) - y]), np.array([[np.exp(score[0])]])
    if loss == "gamma":
        return np.array([1 - y * np.exp(-score[0])]), np.array([[y * np.exp(-score[0])]])
    if loss == "one_vs_all":
        p = 1 / (1 + np.exp(-score))
        return p - np.eye(len(p))[int(y)], np.diag(p * (1 - p))
    e = np.exp(score - score.max())
    p = e / e.sum()
    return p - np.eye(len(p))[int(y)], np.diag(p) - np.outer(p, p)


def loss_value(loss, y, score):
    if loss == "squared":
        return 0.5 * (score[0] - y) ** 2
    if loss == "logistic":
        return np.logaddexp(0, score[0]) - y * score[0]
    if loss == "poisson":
        return np.exp(score[0]) - y * score[0]
    if loss == "gamma":
        return score[0] + y * np.exp(-score[0])
    if loss == "one_vs_all":
        return np.logaddexp(0, score).sum() - score[int(y)]
    return np.log(np.exp(score - score.max()).sum()) + score.max() - score[int(y)]


def newton_step(b, r, rows_score, weight, offset):
    """theta of every leaf of round r at scores + offset: (n_trees, n_leaves, n_values)."""
    n_values, n_trees = b.n_values, b.leaves.shape[1]
    gradient = np.zeros((n_trees, b.n_leaves, n_values))
    hessian = np.zeros((n_trees, b.n_leaves, n_values, n_values))
    for j in range(b.leaves.shape[2]):
        score = rows_score[j] + offset[j]
        g, h = gradient_and_hessian(b.loss, b.target[j], score)
        for k in range(n_trees):
            leaf = b.leaves[r, k, j]
            if b.full:
                gradient[k, leaf] += weight[j] * g
                hessian[k, leaf] += weight[j] * h
            elif b.vector:
                gradient[k, leaf] += weight[j] * g
                hessian[k, leaf] += weight[j] * b.hessian_scale * np.diag(np.diag(h))
            else:
                gradient[k, leaf] += weight[j] * g[k]
                hessian[k, leaf] += weight[j] * b.hessian_scale * h[k, k]
    theta = np.zeros_like(gradient)
    for k in range(n_trees):
        for leaf in range(b.n_leaves):
            m = hessian[k, leaf] + b.l2[r, k, leaf] * np.eye(n_values)
            if np.abs(m).max() > 0:
                theta[k, leaf] = -np.linalg.solve(m, shrunk(gradient[k, leaf], b.l1))
    return np.clip(theta, -b.max_step, b.max_step)


def shrunk(gradient, l1):
    """Soft threshold, element by element."""
    return np.array([np.sign(g) * max(abs(g) - l1, 0.0) for g in gradient])


def spread(b, values, leaves_of_round):
    """(n_trees, n_leaves, n_values) handed to rows: (n_rows, n_outputs)."""
    n_trees, n_rows = leaves_of_round.shape
    out = np.zeros((n_rows, b.n_outputs))
    for j in range(n_rows):
        for k in range(n_trees):
            if b.n_values > 1:
                out[j] += values[k, leaves_of_round[k, j]]
            else:
                out[j, k] += values[k, leaves_of_round[k, j], 0]
    return out


def refit(b, weight, settle=lambda r, value: value):
    """Contribution of every leaf after a refit: (n_rounds, n_trees, n_leaves, n_values).

    `settle` turns what the formula gives the leaves of a round into what they contribute.
    """
    score = np.tile(b.start, (b.leaves.shape[2], 1)).astype(float) + b.offset
    values = []
    for r in range(len(b.leaves)):
        total = 0.0
        offset = np.zeros_like(score)
        for _ in range(b.n_steps):
            total = total + newton_step(b, r, score, weight, offset)
            offset = spread(b, total, b.leaves[r])
        values.append(settle(r, b.rate[r][:, None, None] * total))
        score = advanced(b, score, values, b.leaves)
    return np.array(values)


def refit_stored(b, weight, stored, changed, changed_weight):
    """Stored contributions, moved by what the formula moves from b to `changed`."""
    formula = []

    def keep(r, value):
        formula.append(value)
        return stored[r]

    refit(b, weight, keep)
    return refit(changed, changed_weight, lambda r, value: stored[r] + value - formula[r])


def advanced(b, score, values, leaves):
    """Scores after the last round of `values`; they move where a group of parallel rounds ends."""
    r = len(values)
    if r % b.n_parallel:
        return score
    return score + sum(spread(b, values[p], leaves[p]) for p in range(r - b.n_parallel, r))


def query_losses(b, weight, query_leaves, query_target):
    """Loss of each query after a refit, (n_queries,)."""
    return losses_at(b, refit(b, weight), query_leaves, query_target)


def losses_at(b, values, query_leaves, query_target):
    """Loss of each query where the leaves contribute `values`, (n_queries,)."""
    score = query_scores(b, values, query_leaves)
    return np.array([loss_value(b.loss, y, s) for y, s in zip(query_target, score, strict=True)])


def query_scores(b, values, query_leaves):
    """Raw score of each query, (n_queries, n_outputs), from the values of all leaves."""
    score = np.tile(b.start, (query_leaves.shape[2], 1)).astype(float)
    for r in range(len(values)):
        score = score + spread(b, values[r], query_leaves[r])
    return score


def finite_difference_influence(b, weight, query_leaves, query_target, step=1e-5):
    """-w dL_q / dw_j by central differences of the refit, (n_train, n_queries)."""
    out = np.zeros((len(weight), query_leaves.shape[2]))
    for j in range(len(weight)):
        up, down = weight.copy(), weight.copy()
        up[j] += step
        down[j] -= step
        change = query_losses(b, up, query_leaves, query_target) - query_losses(
            b, down, query_leaves, query_target
        )
        out[j] = -weight[j] * change / (2 * step)
    return out


def with_a_copy(b, row, label):
    """The same boosting with one more row at the end: a copy of a row, with another label."""

    def longer(array, last):
        return np.concatenate([array, [last]])

    offset = np.broadcast_to(b.offset, (b.leaves.shape[2], b.n_outputs))
    leaves = np.concatenate([b.leaves, b.leaves[:, :, row, None]], axis=2)
    return replace(
        b, leaves=leaves, target=longer(b.target, label), offset=longer(offset, offset[row])
    )


def finite_difference_relabelled(b, weight, row, label, queries, step=1e-5):
    """d/de of the query losses at e = 0, (n_queries,), by central differences of the refit.

    Row's weight w is split: (1 - e) w with its own label, e w with the other one.
    """
    split = with_a_copy(b, row, label)
    losses = []
    for e in (step, -step):
        shared = np.append(weight, e * weight[row])
        shared[row] *= 1 - e
        losses.append(query_losses(split, shared, *queries))
    return (losses[0] - losses[1]) / (2 * step)


def boostin(b, weight, query_leaves, query_target, shrunken=False, labels=None, weighted=0):
    """The direct term by a triple loop over rounds, rows and queries; one Newton step a tree.

    With `labels` the rows' own term is at these labels, and all else as trained. With `weighted`
    a leaf's term is divided that often by the weight of its rows.
    """
    labels = b.target if labels is None else labels
    values = refit(b, weight)
    n_train, n_queries = b.leaves.shape[2], query_leaves.shape[2]
    score = np.tile(b.start, (n_train, 1)).astype(float) + b.offset
    query_score = np.tile(b.start, (n_queries, 1)).astype(float)
    out = np.zeros((n_train, n_queries))
    for r in range(len(values)):
        for j in range(n_train):
            g, h = gradient_and_hessian(b.loss, labels[j], score[j])
            for q in range(n_queries):
                pull, _ = gradient_and_hessian(b.loss, query_target[q], query_score[q])
                for k in range(b.leaves.shape[1]):
                    leaf = b.leaves[r, k, j]
                    if leaf != query_leaves[r, k, q]:
                        continue
                    rate = b.rate[r, k] / weight[b.leaves[r, k] == leaf].sum() ** weighted
                    theta = values[r, k, leaf] / (1.0 if shrunken else b.rate[r, k])
                    total = leaf_hessian(b, r, k, leaf, score, weight)
                    if b.n_values > 1:
                        scaled = h if b.full else b.hessian_scale * np.diag(np.diag(h))
                        effect = np.linalg.solve(total, g + scaled @ theta)
                        out[j, q] += weight[j] * rate * pull @ effect
                    else:
                        direct = g[k] + b.hessian_scale * h[k, k] * theta[0]
                        out[j, q] += weight[j] * rate * pull[k] * direct / total[0, 0]
        score = advanced(b, score, values[: r + 1], b.leaves)
        query_score = advanced(b, query_score, values[: r + 1], query_leaves)
    return out


def leaf_hessian(b, r, k, leaf, score, weight):
    total = b.l2[r, k, leaf] * np.eye(b.n_values)
    for j in np.flatnonzero(b.leaves[r, k] == leaf):
        _, h = gradient_and_hessian(b.loss, b.target[j], score[j])
        if b.full:
            total = total + weight[j] * h
        elif b.vector:
            total = total + weight[j] * b.hessian_scale * np.diag(np.diag(h))
        else:
            total = total + weight[j] * b.hessian_scale * h[k, k]
    return total
