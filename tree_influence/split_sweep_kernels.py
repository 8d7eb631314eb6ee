"""Numba code of what a query costs in `SplitInfluence`; indices as in `histogram_kernels`.

All rows of a cell (`split_kernels`) see the same sums over candidates, so a query costs one
addition for each node above a row, whatever the number of candidates.

Serial and `nogil`: the caller runs blocks of queries in threads. Queries are the last axis of
every array, so that the innermost loops are vectorised.
"""

import numba
import numpy as np

from tree_influence.histogram_kernels import goes_left


@numba.njit(nogil=True, cache=True)
def find_cells(
    leaf, path_first, path_node, choice, count, feature, left, bins, offset,
    first, cell, cell_node, cell_code,
):  # fmt: skip
    """Numbers the cells of one tree, from `offset` on; returns the number after the last.

    Args:
        leaf: Shape (n_train,).
        path_first, path_node: As `trace_paths` fills them.
        choice: Choice of each node, shape (n_nodes,).
        count, feature, left: As `find_candidates` fills them.
        bins: Shape (n_features, n_train).
        first: First place of each row in `cell`; the first is given, the others are filled,
            shape (n_train + 1,).
        cell: Cells of each row, one for each node above it that has candidates, filled.
        cell_node, cell_code: Node of each cell, and which candidates send it left, filled.
    """
    number = np.full((len(choice), 1 << feature.shape[1]), -1, dtype=np.int32)
    for j in range(len(leaf)):
        free = first[j]
        for place in range(path_first[leaf[j]], path_first[leaf[j] + 1]):
            node = path_node[place]
            c = choice[node]
            if count[c] == 0:
                continue
            code = 0
            for b in range(count[c]):
                if goes_left(left[c, b], bins[feature[c, b], j]):
                    code |= 1 << b
            if number[node, code] < 0:
                number[node, code] = offset
                cell_node[offset], cell_code[offset] = node, code
                offset += 1
            cell[free] = number[node, code]
            free += 1
        first[j + 1] = free
    return offset


@numba.njit(nogil=True, cache=True)
def add_by_cell(first, cell, adjoint, total):
    """Adds the adjoints of rows to their cells.

    Args:
        first, cell: Of one tree, as `find_cells` fills them.
        adjoint: Shape (n_train, n_values, n_queries).
        total: Added to, shape (n_cells, n_values, n_queries).
    """
    n_values, n_queries = adjoint.shape[1:]
    for j in range(adjoint.shape[0]):
        for place in range(first[j], first[j + 1]):
            for v in range(n_values):
                to, a = total[cell[place], v], adjoint[j, v]
                for q in range(n_queries):
                    to[q] += a[q]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def pull_splits(
    cells, cell_node, cell_code, choice, count, feature, left, probability, temperature,
    value, path_first, path_node, query_leaf, query_bins, pull, scale,
    total, gathered,
):  # fmt: skip
    """What a changed gain of each candidate does to the queries' losses, gathered by cell.

        L_b = rate (sum_j a_j theta_b(j) + c theta_b(q)),  kappa_b = p_b (L_b - mean L) / tau,
        x = -2 sum_b kappa_b theta_b,  y = -sum_b kappa_b theta_b^2

    Args:
        cells: First and last + 1 of the tree's cells.
        value: theta, as `find_candidates` fills it.
        query_leaf: Shape (n_queries,).
        query_bins: Shape (n_features, n_queries).
        pull: c, shape (n_values, n_queries).
        scale: Rate of the tree times the share of the effect that is taken.
        total: Sum over each cell's rows of a, shape (n_cells, n_values, n_queries).
        gathered: x and then y of each cell, filled, shape (n_cells, n_values, 2 * n_queries).
    """
    n_values, n_queries = pull.shape
    most = feature.shape[1]
    loss = np.zeros((len(count), most, n_queries))
    for i in range(cells[0], cells[1]):
        node, code = cell_node[i], cell_code[i]
        c = choice[node]
        for b in range(count[c]):
            side = 0 if (code >> b) & 1 else 1
            to = loss[c, b]
            for v in range(n_values):
                theta, a = value[node, b, side, v], total[i, v]
                for q in range(n_queries):
                    to[q] += theta * a[q]
    for q in range(n_queries):
        for place in range(path_first[query_leaf[q]], path_first[query_leaf[q] + 1]):
            node = path_node[place]
            c = choice[node]
            for b in range(count[c]):
                side = 0 if goes_left(left[c, b], query_bins[feature[c, b], q]) else 1
                for v in range(n_values):
                    loss[c, b, q] += value[node, b, side, v] * pull[v, q]
    mean = np.empty(n_queries)
    for c in range(len(count)):
        mean[:] = 0
        for b in range(count[c]):
            for q in range(n_queries):
                mean[q] += probability[c, b] * loss[c, b, q]
        for b in range(count[c]):
            factor = scale * probability[c, b] / temperature[c]
            for q in range(n_queries):
                loss[c, b, q] = factor * (loss[c, b, q] - mean[q])
    for i in range(cells[0], cells[1]):
        node, code = cell_node[i], cell_code[i]
        c = choice[node]
        gathered[i] = 0
        for b in range(count[c]):
            side = 0 if (code >> b) & 1 else 1
            kappa = loss[c, b]
            for v in range(n_values):
                theta = value[node, b, side, v]
                x, y = gathered[i, v, :n_queries], gathered[i, v, n_queries:]
                for q in range(n_queries):
                    x[q] -= 2 * theta * kappa[q]
                    y[q] -= theta * theta * kappa[q]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add_by_row(
    first, cell, gathered, gradient, hessian, curvature, slope, p, weight,
    adjoint, out,
):  # fmt: skip
    """Hands what the cells of a round gathered to their rows.

        out_j -= sum_k x_jk g_jk + y_jk h_jk,
        a_jk += w_j (x_jk dg_jk/dF_k + y_jk dh_jk/dF_k), through p where outputs are coupled,

    with x and y the sums of those of the cells of row j.

    Args:
        first: Of the round's trees, shape (n_trees, n_train + 1).
        cell: As `find_cells` fills it.
        gathered: As `pull_splits` fills it, shape (n_cells, n_values, 2 * n_queries).
        gradient: Shape (n_train, n_outputs), and so are hessian, curvature and slope.
        p: Class probabilities, same shape; no rows where outputs do not mix.
        weight: Shape (n_train,).
        adjoint: Updated, shape (n_train, n_outputs, n_queries).
        out: Updated, shape (n_train, n_queries).
    """
    n_train, n_outputs, n_queries = adjoint.shape
    n_values = gathered.shape[1]
    both = np.empty((n_outputs, 2 * n_queries))
    mixed = np.empty(n_queries)
    for j in range(n_train):
        both[:] = 0
        for t in range(len(first)):
            for place in range(first[t, j], first[t, j + 1]):
                for v in range(n_values):
                    to, of_cell = both[t + v], gathered[cell[place], v]
                    for i in range(2 * n_queries):
                        to[i] += of_cell[i]
        o = out[j]
        mixed[:] = 0
        for k in range(n_outputs):
            g, h, by_score, by_h = gradient[j, k], hessian[j, k], curvature[j, k], slope[j, k]
            a, x, y = adjoint[j, k], both[k, :n_queries], both[k, n_queries:]
            w = weight[j]
            for q in range(n_queries):
                o[q] -= x[q] * g + y[q] * h
            if len(p) == 0:
                for q in range(n_queries):
                    a[q] += w * (x[q] * by_score + y[q] * by_h)
            else:
                for q in range(n_queries):
                    z = p[j, k] * (x[q] + y[q] * by_h)
                    mixed[q] += z
                    a[q] += w * z
        if len(p) > 0:
            for k in range(n_outputs):
                for q in range(n_queries):
                    adjoint[j, k, q] -= weight[j] * p[j, k] * mixed[q]
