"""Numba code of `SplitInfluence`: how likely each candidate of a split is, and its values.

Indices as in `histogram_kernels`. All rows of one node that lie on the same side of each candidate
are a cell: sums over its rows are all that a candidate needs, here as in the sweep.
"""

import numba
import numpy as np

from tree_influence.histogram_kernels import (
    goes_left,
    newton,
    search_levels,
    search_nodes,
    sort_rows,
    whole_numbers,
)

LEAST = 1e-3  # candidates of smaller probability are dropped


@numba.njit(nogil=True, cache=True)
def trace_paths(children, n_leaves):
    """The nodes above each leaf, root first.

    Args:
        children: Nodes of the tree or ~leaf, shape (n_nodes, 2).
        n_leaves: Number of leaves.

    Returns:
        First place of each leaf, shape (n_leaves + 1,), and the nodes.
    """
    n_nodes = len(children)
    parent = np.full(n_nodes, -1)
    above = np.full(n_leaves, -1)
    for node in range(n_nodes):
        for side in range(2):
            child = children[node, side]
            if child >= 0:
                parent[child] = node
            else:
                above[~child] = node
    path_first = np.zeros(n_leaves + 1, dtype=np.int32)
    for leaf in range(n_leaves):
        path_first[leaf + 1] = path_first[leaf]
        node = above[leaf]
        while node >= 0:
            path_first[leaf + 1] += 1
            node = parent[node]
    path_node = np.empty(path_first[n_leaves], dtype=np.int32)
    for leaf in range(n_leaves):
        free = path_first[leaf + 1]
        node = above[leaf]
        while node >= 0:
            free -= 1
            path_node[free] = node
            node = parent[node]
    return path_first, path_node


@numba.njit(nogil=True, cache=True, error_model="numpy")
def find_candidates(
    leaf, children, symmetric, nodes_first, bins, start, categorical, gradient, hessian,
    weight, l1, l2, fewest, count, feature, left, probability, temperature, value,
):  # fmt: skip
    """The best candidate splits of every choice of one tree.

    Args:
        leaf: Shape (n_train,).
        children: Nodes or ~leaf, shape (n_nodes, 2).
        symmetric: The nodes of a level share their split.
        nodes_first: First node of each choice, shape (n_choices + 1,).
        bins: Shape (n_features, n_train).
        start: First place of each column's bins, shape (n_features + 1,).
        categorical: Shape (n_features,).
        gradient, hessian: Shape (n_train, n_values).
        weight: Shape (n_train,).
        fewest: Rows a side of a candidate must have.
        count: Candidates of each choice, filled; 0 where there is no choice, shape (n_choices,).
        feature: Filled, shape (n_choices, most), and so are `left` (..., 4) and `probability`.
        temperature: Filled, shape (n_choices,).
        value: Newton value of a candidate's sides, filled, shape (n_nodes, most, 2, n_values).
    """
    if len(children) == 0:
        return
    span = np.empty((2 * len(children) + 1, 2), dtype=np.int64)
    rows = sort_rows(leaf, weight, children, span)
    terms = np.concatenate((gradient, hessian), axis=1)
    whole, unit = whole_numbers(weight, terms)
    gain = np.empty(feature.shape)
    if symmetric:
        search_levels(
            nodes_first, rows, span, bins, start, categorical, whole, unit, l1, l2, fewest,
            count, gain, feature, left,
        )  # fmt: skip
    else:
        search_nodes(
            children, rows, span, bins, start, categorical, whole, unit, l1, l2, fewest,
            count, gain, feature, left,
        )  # fmt: skip
    for c in range(len(count)):
        first, last, found = nodes_first[c], nodes_first[c + 1], count[c]
        squares = 0.0
        for node in range(first, last):
            inside = rows[span[node, 0] : span[node, 1]]
            code, moments = _cells(inside, bins, found, feature[c], left[c], weight, terms)
            squares += _values(code, moments, found, l1, l2, value[node])
        temperature[c] = 0.5 * np.sqrt(squares / max(1, found - 1))
        count[c] = _soften(found, gain[c], temperature[c], probability[c])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _cells(inside, bins, found, feature, left, weight, terms):
    """Sums over the cells of a node.

    Returns:
        Which candidates send each cell left, as bits, and the sums over its rows of the weighted
        terms, followed by those of their weighted products.
    """
    n_terms = terms.shape[1]
    number = np.full(1 << len(feature), -1, dtype=np.int32)
    code = np.empty(len(inside), dtype=np.int32)
    moments = np.zeros((len(inside), n_terms + n_terms * n_terms))
    n_cells = 0
    for j in inside:
        bits = 0
        for b in range(found):
            if goes_left(left[b], bins[feature[b], j]):
                bits |= 1 << b
        if number[bits] < 0:
            number[bits] = n_cells
            code[n_cells] = bits
            n_cells += 1
        to, w = moments[number[bits]], weight[j]
        for v in range(n_terms):
            to[v] += w * terms[j, v]
        for a in range(n_terms):
            for b in range(a + 1):
                to[n_terms + n_terms * a + b] += w * terms[j, a] * w * terms[j, b]
    return code[:n_cells], moments[:n_cells]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _values(code, moments, found, l1, l2, value):
    """Newton values of both sides of a node's candidates, and the noise of their gains.

    Returns:
        Sum over the rows and the candidates but the best of the squared difference of what the
        row's weight does to the candidate's gain and to the best one's.
    """
    n_values = value.shape[2]
    total = np.zeros((found, 2, 2 * n_values))
    for i in range(len(code)):
        for b in range(found):
            to = total[b, 0 if (code[i] >> b) & 1 else 1]
            for v in range(2 * n_values):
                to[v] += moments[i, v]
    for b in range(found):
        for side in range(2):
            for v in range(n_values):
                g, h = total[b, side, v], total[b, side, n_values + v]
                value[b, side, v] = newton(g, h, l1, l2)
    squares = 0.0
    difference = np.empty(2 * n_values)
    for i in range(len(code)):
        best = value[0, 0 if code[i] & 1 else 1]
        products = moments[i, 2 * n_values :]
        for b in range(1, found):
            theta = value[b, 0 if (code[i] >> b) & 1 else 1]
            for v in range(n_values):
                difference[v] = 2 * (theta[v] - best[v])
                difference[n_values + v] = theta[v] ** 2 - best[v] ** 2
            for v in range(2 * n_values):
                for u in range(v + 1):
                    twice = 1.0 if u == v else 2.0
                    product = products[2 * n_values * v + u]
                    squares += twice * difference[v] * difference[u] * product
    return max(squares, 0.0)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _soften(found, gain, noise, probability):
    """Probabilities of the candidates; returns how many are kept, 0 if there is no choice."""
    if found < 2 or noise <= 1e-12 * gain[0]:
        return 0
    total = 0.0
    for b in range(found):
        probability[b] = np.exp((gain[b] - gain[0]) / noise)
        total += probability[b]
    kept, of_kept = 0, 0.0
    while kept < found and probability[kept] > LEAST * total:
        of_kept += probability[kept]
        kept += 1
    for b in range(found):
        probability[b] = probability[b] / of_kept if b < kept else 0.0
    return kept if kept > 1 else 0
