"""Slow oracle of influence through leaves and the choice of splits; imports none of our code.

The formula, line by line, with dense loops over rows, nodes and candidates. Boostings are those of
`reference.boosting`, of one Newton step a tree and no parallel rounds; derivatives of gradients and
leaf Hessians are central differences.
"""

from dataclasses import dataclass

import numpy as np

from tests.reference import boosting

MOST, LEAST, STEP = 10, 1e-3, 1e-5


@dataclass
class Table:
    """What trees could split on.

    rows and queries hold NaN where a value is missing; `choices` lists, for every choice of a
    tree, the leaves under each of its nodes; all trees are alike.
    """

    rows: np.ndarray  # (n_train, n_features)
    queries: np.ndarray
    categorical: list
    choices: list
    symmetric: bool = False


def influence(
    b, weight, query_leaves, query_target, table, scale, leaf_part=True, pull=None, labels=None
):
    """Minus w dL_q / dw_j at half of the weights, (n_train, n_queries).

    With `labels` the rows' own terms are at these labels, and all else as trained.
    """
    w = weight / 2
    values = boosting.refit(b, w)
    n_train, n_queries = len(w), query_leaves.shape[2]
    score = [np.tile(b.start, (n_train, 1)).astype(float) + b.offset]
    for r in range(len(values)):
        score.append(score[-1] + boosting.spread(b, values[r], b.leaves[r]))
    query_score = np.tile(b.start, (n_queries, 1)).astype(float)
    for r in range(len(values)):
        query_score = query_score + boosting.spread(b, values[r], query_leaves[r])
    c = gradients(b, query_target, query_score)[0].T if pull is None else pull
    a = np.zeros((n_train, b.n_outputs, n_queries))
    derivative = np.zeros((n_train, n_queries))
    for r in range(len(values) - 1, -1, -1):
        g, h, dg, dh = terms(b, score[r])
        own = gradients(b, b.target if labels is None else labels, score[r])
        before = a.copy()
        for t in range(b.leaves.shape[1]):
            outputs = range(b.n_outputs) if b.n_values > 1 else [t]
            tree = b.rate[r, t], b.leaves[r, t], query_leaves[r, t]
            if leaf_part:
                theta = values[r, t] / b.rate[r, t]  # (n_leaves, n_values)
                leaves(b, r, t, outputs, tree, theta, w, h, own, dg, dh, before, c, a, derivative)
            for choice in table.choices:
                known = g, h, dg, dh, own
                split(b, r, t, outputs, tree, choice, table, scale, w, known, before, c, a,
                      derivative)  # fmt: skip
    return -w[:, None] * derivative


def gradients(b, target, score):
    """g and the library's h of rows, both (n_rows, n_outputs)."""
    both = [boosting.gradient_and_hessian(b.loss, y, s) for y, s in zip(target, score, strict=True)]
    g = np.array([gradient for gradient, _ in both])
    return g, b.hessian_scale * np.array([np.diag(hessian) for _, hessian in both])


def terms(b, score):
    """g (n, K), library's h (n, K), dg_k/dF_m and dh_k/dF_m (n, K, K)."""

    g, h = gradients(b, b.target, score)
    dg, dh = (np.zeros((*g.shape, g.shape[1])) for _ in range(2))
    for m in range(g.shape[1]):
        shift = STEP * (np.arange(g.shape[1]) == m)
        up, down = (gradients(b, b.target, score + sign * shift) for sign in (1, -1))
        dg[:, :, m], dh[:, :, m] = ((u - d) / (2 * STEP) for u, d in zip(up, down, strict=True))
    return g, h, dg, dh


def leaves(b, r, t, outputs, tree, theta, w, h, own, dg, dh, before, c, a, derivative):
    """The part through leaf values."""
    rate, leaf, query_leaf = tree
    for v, k in enumerate(outputs):
        for node in range(b.n_leaves):
            rows = np.flatnonzero(leaf == node)
            value = theta[node, v]
            if value == 0 or abs(value) == b.max_step or len(rows) == 0:
                continue
            hessian = (w[rows] * h[rows, k]).sum() + b.l2[r, t, node]
            u = rate * (c[k] * (query_leaf == node) + before[rows, k].sum(axis=0)) / hessian
            for j in rows:
                derivative[j] -= u * (own[0][j, k] + value * own[1][j, k])
                for m in range(b.n_outputs):
                    a[j, m] -= u * w[j] * (dg[j, k, m] + value * dh[j, k, m])


def split(b, r, t, outputs, tree, choice, table, scale, w, known, before, c, a, derivative):
    """The part through one choice of a split."""
    rate, leaf, query_leaf = tree
    g, h, dg, dh, own = known
    l2 = b.l2[r, t].min()
    found = candidates(b, leaf, choice, table, outputs, g, h, w, l2)
    if len(found) < 2:
        return
    effects, losses, gains = [], [], []
    for gain, rows_left, queries_left in found:
        gains.append(gain)
        # by the weight, by each raw score, by the weight with the other label
        d = np.zeros((len(w), 2 + b.n_outputs))
        loss = np.zeros(len(query_leaf))
        for under in choice:
            for side in (True, False):
                rows = np.flatnonzero(np.isin(leaf, under) & (rows_left == side) & (w > 0))
                asked = np.isin(query_leaf, under) & (queries_left == side)
                for k in outputs:
                    hessian = (w * h[:, k])[rows].sum()
                    theta = newton((w * g[:, k])[rows].sum(), hessian, b.l1, l2)
                    d[rows, 0] += -2 * theta * g[rows, k] - theta**2 * h[rows, k]
                    d[rows, 1:-1] += -2 * theta * dg[rows, k] - theta**2 * dh[rows, k]
                    d[rows, -1] += -2 * theta * own[0][rows, k] - theta**2 * own[1][rows, k]
                    loss += rate * theta * (before[rows, k].sum(axis=0) + c[k] * asked)
        effects.append(d)
        losses.append(loss)
    effects, losses, gains = np.array(effects), np.array(losses), np.array(gains)
    differences = (effects[1:, :, 0] - effects[0, :, 0]) * 2 * w  # of full weights
    tau = 0.5 * np.sqrt((differences**2 / 4).sum(axis=1).mean())
    if tau <= 1e-12 * gains[0]:
        return
    p = np.exp((gains - gains[0]) / tau)
    p = np.where(p / p.sum() > LEAST, p, 0.0)
    p = p / p.sum()
    kappa = p[:, None] * (losses - p @ losses) / tau
    derivative += scale * np.einsum("bq,bj->jq", kappa, effects[:, :, -1])
    a += scale * w[:, None, None] * np.einsum("bq,bjm->jmq", kappa, effects[:, :, 1:-1])


def newton(gradient, hessian, l1, l2):
    if hessian + l2 <= 0:
        return 0.0
    return -np.sign(gradient) * max(abs(gradient) - l1, 0.0) / (hessian + l2)


def candidates(b, leaf, choice, table, outputs, g, h, w, l2):
    """The best splits: gain, and which rows and queries go left."""
    inside = np.isin(leaf, np.concatenate(choice)) & (w > 0)
    fewest = 1 if table.symmetric else smallest_leaf(b, w)
    found = []
    for f in range(table.rows.shape[1]):
        for rows_left, queries_left in cuts(
            table, f, inside, leaf, choice, outputs, g, h, w, b, l2
        ):
            n_left = (rows_left & inside).sum()
            if min(n_left, inside.sum() - n_left) < fewest:
                continue
            gain = 0.0
            for under in choice:
                for side in (True, False):
                    rows = np.flatnonzero(np.isin(leaf, under) & (rows_left == side) & (w > 0))
                    for k in outputs:
                        hessian = (w * h[:, k])[rows].sum()
                        m = newton((w * g[:, k])[rows].sum(), hessian, b.l1, l2)
                        gain += m**2 * (hessian + l2)
            found.append((gain, rows_left, queries_left))
    order = sorted(range(len(found)), key=lambda i: (-float(f"{found[i][0]:.7g}"), i))
    return [found[i] for i in order[:MOST]]


def cuts(table, f, inside, leaf, choice, outputs, g, h, w, b, l2):
    """Every way to send the rows of the nodes left by one column, each partition once."""
    x, asked = table.rows[:, f], table.queries[:, f]
    if f in table.categorical:
        known = [v for v in np.unique(x[inside]) if not np.isnan(v)]
        groups = [(v, x == v, asked == v) for v in known]
        if np.isnan(x[inside]).any():
            # Bins without rows here never join the left, missing ones included.
            groups.append(
                (np.nan, np.isnan(x), np.isnan(asked) | ~np.isin(asked, table.rows[:, f]))
            )

        def value(group, k):
            rows = np.flatnonzero(group[1] & inside)
            return newton((w * g[:, k])[rows].sum(), (w * h[:, k])[rows].sum(), 0.0, l2)

        def won(k):
            hessians = [(w * h[:, k])[group[1] & inside].sum() for group in groups]
            return sum(value(x, k) ** 2 * (s + l2) for x, s in zip(groups, hessians, strict=True))

        largest = max(outputs, key=won)
        groups.sort(key=lambda group: value(group, largest))
        left, queries_left = np.zeros(len(x), bool), np.zeros(len(asked), bool)
        for _, rows, queries in groups:
            left, queries_left = left | rows, queries_left | queries
            yield left, queries_left
        return
    edges = np.unique(x[~np.isnan(x)])
    edges = (edges[1:] + edges[:-1]) / 2
    missing = np.isnan(x[inside]).any()
    for missing_left in (False, True)[: 1 + missing]:
        last = None
        for cut in [*edges, np.inf]:
            left = (x <= cut) | (np.isnan(x) & missing_left)
            if last is not None and not (left & ~last & inside).any():
                continue
            if last is None and not ((x <= cut) & inside).any():
                continue
            last = left
            yield left, (asked <= cut) | (np.isnan(asked) & missing_left)


def smallest_leaf(b, w):
    counts = [
        np.bincount(leaf[w > 0], minlength=b.n_leaves) for trees in b.leaves for leaf in trees
    ]
    return min(c[c > 0].min() for c in counts if (c > 0).sum() > 1)
