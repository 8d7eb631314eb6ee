"""Numba code of the reverse sweeps: serial and `nogil`, the caller runs query blocks in threads.

Over rounds r (last to first), Newton steps s and queries q, with u the adjoint of each leaf's
value, that is the query's own pull c where it falls in and the adjoints a its rows carry from
later rounds (`sweep_own`: only the row's own):

    u = rate (c 1[q in l] + sum_j a_j),   v = inverse u,
    out_j += v direct_j,   a_j -= v slope_j,   and inside a tree u -= sum_j v slope_j.

Queries are the last axis of every array, so that the innermost loops are vectorised.
"""

import numba
import numpy as np

ROWS = 256  # rows whose sums are collected at a time


@numba.njit(nogil=True, cache=True, error_model="numpy")
def sweep(leaf, query_leaf, rate, inverse, direct, slope, pull, adjoint, out):
    """Sweeps one output back over a few rounds, for one block of queries.

    Args:
        leaf: Leaf of each row, shape (n_rounds, n_train).
        query_leaf: Leaf of each query, shape (n_rounds, n_queries).
        rate: Shape (n_rounds,).
        inverse: 1 / (H + l2), shape (n_rounds, n_steps, n_leaves).
        direct: Shape (n_rounds, n_steps, n_train), and so is slope.
        slope: Row weight included.
        pull: Query's gradient at its final score, shape (n_queries,).
        adjoint: a, updated, shape (n_train, n_queries).
        out: Added to, shape (n_train, n_queries).
    """
    n_rounds, n_train = leaf.shape
    n_steps, n_leaves, n_queries = inverse.shape[1], inverse.shape[2], len(pull)
    u = np.zeros((n_leaves, n_queries))
    v = np.empty((n_rounds, n_steps, n_leaves, n_queries))
    for j in range(n_train):
        u_leaf, a = u[leaf[n_rounds - 1, j]], adjoint[j]
        for q in range(n_queries):
            u_leaf[q] += a[q]
    for r in range(n_rounds - 1, -1, -1):
        here, before = leaf[r], leaf[max(r - 1, 0)]
        for q in range(n_queries):
            u[query_leaf[r, q], q] += pull[q]
        u *= rate[r]
        for s in range(n_steps - 1, -1, -1):
            step, by_score = v[r, s], slope[r, s]
            for node in range(n_leaves):
                for q in range(n_queries):
                    step[node, q] = u[node, q] * inverse[r, s, node]
            if s == 0:  # the last pass over this tree's rows already sums up the leaves before it
                u[:] = 0
            summed = before if s == 0 else here
            for j in range(n_train):
                step_leaf, u_leaf, a = step[here[j]], u[summed[j]], adjoint[j]
                for q in range(n_queries):
                    lost = step_leaf[q] * by_score[j]
                    a[q] -= lost
                    u_leaf[q] += a[q] if s == 0 else -lost
    _collect(leaf, v, direct, out)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _collect(leaf, v, direct, out):
    """out_j += v direct_j over all rounds and steps, a few rows at a time to stay in the cache."""
    n_rounds, n_train = leaf.shape
    n_steps, n_queries = v.shape[1], v.shape[3]
    for first in range(0, n_train, ROWS):
        last = min(first + ROWS, n_train)
        for r in range(n_rounds - 1, -1, -1):
            for s in range(n_steps - 1, -1, -1):
                step, here, by_weight = v[r, s], leaf[r], direct[r, s]
                for j in range(first, last):
                    step_leaf, o = step[here[j]], out[j]
                    for q in range(n_queries):
                        o[q] += step_leaf[q] * by_weight[j]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def sweep_own(leaf, query_leaf, rate, inverse, direct, slope, pull, adjoint, out):
    """As `sweep`, but a row's leaf carries only the row itself: rows do not touch each other."""
    n_rounds, n_train = leaf.shape
    n_steps, n_queries = inverse.shape[1], len(pull)
    for r in range(n_rounds - 1, -1, -1):
        for j in range(n_train):
            node, a, o = leaf[r, j], adjoint[j], out[j]
            for q in range(n_queries):
                u = rate[r] * (a[q] + (pull[q] if query_leaf[r, q] == node else 0.0))
                for s in range(n_steps - 1, -1, -1):
                    v = u * inverse[r, s, node]
                    o[q] += v * direct[r, s, j]
                    a[q] -= v * slope[r, s, j]
                    u -= v * slope[r, s, j]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _couple(full, weight, direct, slope, p, v, through, a, o):
    """Row update of coupled outputs; `through` is what each output's adjoint loses.

    a_k loses w p_k (v_k s_k - sum_m v_m p_m s_m), with the full Hessian also
    - w p_k (s_k - 1) sum_m v_m p_m.
    """
    n_outputs, n_queries = v.shape
    for q in range(n_queries):
        mixed, mean = 0.0, 0.0
        for k in range(n_outputs):
            o[q] += v[k, q] * direct[k]
            mixed += v[k, q] * p[k] * slope[k]
            mean += v[k, q] * p[k]
        if not full:
            mean = 0.0
        for k in range(n_outputs):
            lost = weight * p[k] * (v[k, q] * slope[k] - mixed - (slope[k] - 1) * mean)
            through[k, q] = lost
            a[k, q] -= lost


@numba.njit(nogil=True, cache=True, error_model="numpy")
def sweep_coupled(
    leaf, query_leaf, rate, inverse, direct, slope, p, weight, pull, own, full, adjoint, out
):
    """Sweeps coupled outputs back over a few rounds, for one block of queries.

    All outputs of a round read their u before any adjoint changes.

    Args:
        leaf: Leaf of each row, shape (n_rounds, n_trees, n_train) with n_trees = n_outputs, or 1
            where leaves are vectors.
        query_leaf: Shape (n_rounds, n_trees, n_queries).
        rate: Shape (n_rounds, n_trees).
        inverse: Shape (n_rounds, n_steps, n_leaves, n_outputs, n_outputs); diagonal unless `full`.
        direct: Shape (n_rounds, n_steps, n_train, n_outputs), and so are slope and p.
        slope: Without the row weight.
        p: Class probabilities.
        weight: Row weights, shape (n_train,).
        pull: Shape (n_outputs, n_queries).
        own: A row's leaf carries only the row itself.
        full: Leaves solve the full Hessian.
        adjoint: Updated, shape (n_train, n_outputs, n_queries).
        out: Added to, shape (n_train, n_queries).
    """
    n_rounds, n_trees, n_train = leaf.shape
    n_steps, n_leaves, n_outputs = inverse.shape[1:4]
    n_queries = pull.shape[1]
    n_groups = n_train if own else n_leaves  # whose adjoints are summed: a leaf's, or a row's
    u = np.empty((n_groups, n_outputs, n_queries))
    v = np.empty((n_outputs, n_queries))
    lost = np.empty((n_outputs, n_queries))
    solved = np.empty((n_groups, n_outputs, n_queries))
    for r in range(n_rounds - 1, -1, -1):
        u[:] = 0
        for j in range(n_train):
            for k in range(n_outputs):
                node = leaf[r, k % n_trees, j]
                group = j if own else node
                for q in range(n_queries):
                    u[group, k, q] += adjoint[j, k, q]
                    if own and query_leaf[r, k % n_trees, q] == node:
                        u[group, k, q] += pull[k, q]
        if not own:
            for k in range(n_outputs):
                for q in range(n_queries):
                    u[query_leaf[r, k % n_trees, q], k, q] += pull[k, q]
        for k in range(n_outputs):
            u[:, k] *= rate[r, k % n_trees]
        for s in range(n_steps - 1, -1, -1):
            _solve(own, leaf[r], inverse[r, s], u, solved)
            for j in range(n_train):
                for k in range(n_outputs):
                    v[k] = solved[j if own else leaf[r, k % n_trees, j], k]
                _couple(
                    full, weight[j], direct[r, s, j], slope[r, s, j], p[r, s, j], v, lost,
                    adjoint[j], out[j],
                )  # fmt: skip
                if s > 0:
                    u[j if own else leaf[r, 0, j]] -= lost


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _solve(own, leaf, inverse, u, solved):
    """solved = inverse u for every leaf, or for every row with its leaf's inverse."""
    n_groups, n_outputs, n_queries = u.shape
    solved[:] = 0
    for group in range(n_groups):
        for k in range(n_outputs):
            node = leaf[k % len(leaf), group] if own else group
            for m in range(n_outputs):
                factor = inverse[node, k, m]
                if factor != 0:
                    for q in range(n_queries):
                        solved[group, k, q] += factor * u[group, m, q]
