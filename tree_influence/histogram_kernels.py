"""Numba code of the histograms and gains of `SplitInfluence`: candidate splits of every node.

| index | runs over |
|---|---|
| j, q, f | training rows, queries, columns |
| node    | inner nodes of a tree; node 0 is the root |
| choice  | of a split: one for each node, or one for the nodes of a level of a symmetric tree |
| b       | candidates of a choice, by falling gain |
| side    | 0 = left, 1 = right |
| v       | values of a leaf; outputs a tree speaks for |
| bin     | of a column: its values in order, the last one for missing values |

Candidates hold the bins that go left as 256 bits. Histograms add whole numbers, so that another
order of the rows adds up to the same, a child is exactly its parent less its sibling, and equal
partitions have equal gains.
"""

import numba
import numpy as np

FINE = 2.0**30  # largest term of a row in a histogram


@numba.njit(nogil=True, cache=True)
def goes_left(bits, bin_):
    """Whether a bin is in the set of 256 bits."""
    return (bits[bin_ >> 6] >> np.uint64(bin_ & 63)) & np.uint64(1) == np.uint64(1)


@numba.njit(nogil=True, cache=True)
def _add_bin(bits, bin_):
    bits[bin_ >> 6] |= np.uint64(1) << np.uint64(bin_ & 63)


@numba.njit(nogil=True, cache=True)
def newton(gradient, hessian, l1, l2):
    """-(G moved towards 0 by l1) / (H + l2); 0 without a Hessian."""
    if hessian + l2 <= 0:
        return 0.0
    moved = max(abs(gradient) - l1, 0.0)
    return (-moved if gradient > 0 else moved) / (hessian + l2)


@numba.njit(nogil=True, cache=True)
def sort_rows(leaf, weight, children, span):
    """Rows of positive weight in an order in which the rows under each node are together.

    Args:
        leaf: Shape (n_train,).
        children: Nodes or ~leaf, shape (n_nodes, 2).
        span: First and last + 1 of the rows of each node, and then of each leaf, filled, shape
            (n_nodes + n_leaves, 2).
    """
    n_nodes = len(children)
    n_leaves = len(span) - n_nodes
    size = np.zeros(n_leaves, dtype=np.int64)
    for j in range(len(leaf)):
        if weight[j] > 0:
            size[leaf[j]] += 1
    stack = np.empty(n_nodes + n_leaves, dtype=np.int64)
    depth, free = 0, 0
    if n_nodes > 0:
        stack[0], depth = 0, 1
    while depth > 0:
        depth -= 1
        node = stack[depth]
        if node < 0:
            span[n_nodes + ~node, 0] = free
            free += size[~node]
            span[n_nodes + ~node, 1] = free
        else:
            stack[depth], stack[depth + 1] = children[node, 1], children[node, 0]
            depth += 2
    _join_spans(children, span)
    rows = np.empty(free, dtype=np.int32)
    place = span[n_nodes:, 0].copy()
    for j in range(len(leaf)):
        if weight[j] > 0 and free > 0:
            rows[place[leaf[j]]] = j
            place[leaf[j]] += 1
    return rows


@numba.njit(nogil=True, cache=True)
def _join_spans(children, span):
    """Spans of nodes from those of their leaves: from the leftmost one to the rightmost one."""
    n_nodes = len(children)
    for node in range(n_nodes):
        for side in range(2):
            child = children[node, side]
            while child >= 0:
                child = children[child, side]
            span[node, side] = span[n_nodes + ~child, side]


@numba.njit(nogil=True, cache=True)
def whole_numbers(weight, rows):
    """Weighted terms of rows as whole numbers, and the unit of each column."""
    n_train, n_columns = rows.shape
    unit = np.zeros(n_columns)
    for j in range(n_train):
        for v in range(n_columns):
            unit[v] = max(unit[v], abs(weight[j] * rows[j, v]))
    unit /= FINE
    whole = np.zeros((n_train, n_columns), dtype=np.int64)
    for j in range(n_train):
        for v in range(n_columns):
            if unit[v] > 0:
                whole[j, v] = np.int64(np.rint(weight[j] * rows[j, v] / unit[v]))
    return whole, unit


@numba.njit(nogil=True, cache=True)
def add_rows(rows, bins, start, whole, histogram):
    """Adds rows to a histogram of all columns: their terms, and how many they are.

    Args:
        rows: Positions.
        bins: Shape (n_features, n_train).
        start: First place of each column in the histogram, shape (n_features + 1,).
        whole: Shape (n_train, n_terms).
        histogram: Added to, shape (n_places, n_terms + 1).
    """
    n_terms = whole.shape[1]
    taken = np.empty((len(rows), n_terms), dtype=np.int64)
    for i in range(len(rows)):
        taken[i] = whole[rows[i]]
    for f in range(len(bins)):
        first, bin_of = start[f], bins[f]
        if n_terms == 2:
            for i in range(len(rows)):
                at = first + bin_of[rows[i]]
                histogram[at, 0] += taken[i, 0]
                histogram[at, 1] += taken[i, 1]
                histogram[at, 2] += 1
        else:
            for i in range(len(rows)):
                at = first + bin_of[rows[i]]
                for v in range(n_terms):
                    histogram[at, v] += taken[i, v]
                histogram[at, n_terms] += 1


@numba.njit(nogil=True, cache=True, error_model="numpy")
def search_nodes(
    children, rows, span, bins, start, categorical, whole, unit, l1, l2, fewest,
    count, gain, feature, left,
):  # fmt: skip
    """The best candidates of each node of a tree, which is a choice of its own.

    A node's histogram is filled from its rows, or is its parent's less its sibling's, whatever is
    less work.

    Args:
        children: Shape (n_nodes, 2).
        rows, span: As `sort_rows` gives them.
        bins: Shape (n_features, n_train).
        start: First place of each column's bins, shape (n_features + 1,).
        categorical: Shape (n_features,).
        whole, unit: As `whole_numbers` gives them.
        fewest: Rows a side of a candidate must have.
        count: Filled, shape (n_choices,).
        gain: Filled, shape (n_choices, most), and so are `feature` and `left` (..., 4).
    """
    n_nodes, shape = len(children), (start[-1], whole.shape[1] + 1)
    held = [np.zeros(shape, dtype=np.int64)]
    add_rows(rows[span[0, 0] : span[0, 1]], bins, start, whole, held[0])
    stack = np.zeros(n_nodes + 1, dtype=np.int64)
    depth = 1
    while depth > 0:
        depth -= 1
        node, histogram = stack[depth], held.pop()
        found = 0
        for f in range(len(bins)):
            of_column = histogram[start[f] : start[f + 1]].reshape(1, start[f + 1] - start[f], -1)
            found = search_column(
                of_column, unit, categorical[f], f, l1, l2, fewest,
                found, gain[node], feature[node], left[node],
            )  # fmt: skip
        count[node] = found
        small, large = children[node, 0], children[node, 1]
        at = span[small if small >= 0 else n_nodes + ~small]
        other = span[large if large >= 0 else n_nodes + ~large]
        if at[1] - at[0] > other[1] - other[0]:
            small, large, at = large, small, other
        if small >= 0 or large >= 0:
            part = np.zeros(shape, dtype=np.int64)
            add_rows(rows[at[0] : at[1]], bins, start, whole, part)
            if large >= 0:
                histogram -= part
                held.append(histogram)
                stack[depth] = large
                depth += 1
            if small >= 0:
                held.append(part)
                stack[depth] = small
                depth += 1


@numba.njit(nogil=True, cache=True, error_model="numpy")
def search_levels(
    nodes_first, rows, span, bins, start, categorical, whole, unit, l1, l2, fewest,
    count, gain, feature, left,
):  # fmt: skip
    """The same for symmetric trees: the nodes of a level share their candidates.

    Args:
        nodes_first: First node of each level, shape (n_choices + 1,).
    """
    n_terms = whole.shape[1]
    for c in range(len(count)):
        found = 0
        first, last = nodes_first[c], nodes_first[c + 1]
        for f in range(len(bins)):
            histogram = np.zeros((last - first, start[f + 1] - start[f], n_terms + 1), np.int64)
            for node in range(first, last):
                own = rows[span[node, 0] : span[node, 1]]
                one = np.array([0, start[f + 1] - start[f]])
                add_rows(own, bins[f : f + 1], one, whole, histogram[node - first])
            found = search_column(
                histogram, unit, categorical[f], f, l1, l2, fewest,
                found, gain[c], feature[c], left[c],
            )  # fmt: skip
        count[c] = found


@numba.njit(nogil=True, cache=True, error_model="numpy")
def search_column(
    histogram, unit, categorical, f, l1, l2, fewest, found, gain, feature, left
):  # fmt: skip
    """Adds one column's candidates to the best so far; returns how many there are.

    Numbers are cut after each bin, with missing values on the right, then on the left. Categories
    are cut in the order of -G / (H + l2) without l1, the missing one among them.
    """
    n_nodes, n_bins = len(histogram), histogram.shape[1] - 1
    n_missing = 0
    for node in range(n_nodes):
        n_missing += histogram[node, n_bins, -1]
    sequence = np.arange(n_bins + (n_missing > 0))
    if categorical:
        sequence = _by_value(histogram, unit, sequence, l2)
        return _scan(
            histogram, unit, sequence, False, f, l1, l2, fewest, found, gain, feature, left
        )
    found = _scan(
        histogram, unit, sequence[:n_bins], False, f, l1, l2, fewest, found, gain, feature, left
    )
    if n_missing > 0:
        found = _scan(
            histogram, unit, sequence[:n_bins], True, f, l1, l2, fewest, found, gain, feature, left
        )
    return found


@numba.njit(nogil=True, cache=True)
def _by_value(histogram, unit, sequence, l2):
    """Bins with rows in the order of their Newton value, summed over nodes.

    Of several outputs it is the one on which the bins' gains are largest.
    """
    n_values = len(unit) // 2
    value = np.zeros((n_values, len(sequence)))
    held = np.zeros(len(sequence), dtype=np.bool_)
    chosen, best = 0, 0.0
    for v in range(n_values):
        won = 0.0
        for place in range(len(sequence)):
            b = sequence[place]
            g, h = 0.0, 0.0
            for node in range(len(histogram)):
                g += histogram[node, b, v] * unit[v]
                h += histogram[node, b, n_values + v] * unit[n_values + v]
                held[place] |= histogram[node, b, -1] > 0
            value[v, place] = newton(g, h, 0.0, l2)
            won += value[v, place] ** 2 * (h + l2)
        if won > best * (1 + 1e-9):
            chosen, best = v, won
    order = np.argsort(value[chosen], kind="mergesort")
    return sequence[order[held[order]]]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _scan(
    histogram, unit, sequence, missing_left, f, l1, l2, fewest, found, gain, feature, left
):  # fmt: skip
    """Cuts a sequence of bins after each of them that holds rows; keeps the best candidates."""
    n_nodes, missing = len(histogram), histogram.shape[1] - 1
    n_rows, n_below = 0, 0
    for node in range(n_nodes):
        for b in range(missing + 1):
            n_rows += histogram[node, b, -1]
        n_below += histogram[node, missing, -1] * missing_left
    allowed, last = np.zeros(len(sequence), dtype=np.bool_), 0
    for i in range(len(sequence)):
        here = 0
        for node in range(n_nodes):
            here += histogram[node, sequence[i], -1]
        n_below += here
        if n_rows - n_below < fewest:
            break
        if here > 0 and n_below >= fewest:
            allowed[i] = True
            last = i + 1
    if last == 0:
        return found
    won = np.zeros(last)
    for node in range(n_nodes):
        for v in range(len(unit) // 2):
            _add_gains(histogram[node], v, unit, sequence, missing_left, allowed, l1, l2, won)
    for i in range(last):
        if allowed[i] and (found < len(gain) or won[i] > gain[found - 1]):
            found, place = _keep(won[i], f, found, gain, feature, left)
            bits = left[place]
            bits[:] = 0
            if missing_left:
                _add_bin(bits, missing)
            for before in range(i + 1):
                _add_bin(bits, sequence[before])
    return found


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_gains(histogram, v, unit, sequence, missing_left, allowed, l1, l2, won):
    """Adds theta^2 (H + l2) of both sides of each cut, for one node and value."""
    n_values, missing = len(unit) // 2, len(histogram) - 1
    g_all, h_all = 0, 0
    for b in range(missing + 1):
        g_all += histogram[b, v]
        h_all += histogram[b, n_values + v]
    g, h = 0, 0
    if missing_left:
        g, h = histogram[missing, v], histogram[missing, n_values + v]
    g_unit, h_unit = unit[v], unit[n_values + v]
    for i in range(len(won)):
        b = sequence[i]
        g += histogram[b, v]
        h += histogram[b, n_values + v]
        if allowed[i]:
            below, above = h * h_unit + l2, (h_all - h) * h_unit + l2
            g_below = max(abs(g * g_unit) - l1, 0.0)
            g_above = max(abs((g_all - g) * g_unit) - l1, 0.0)
            if below > 0:
                won[i] += g_below * g_below / below
            if above > 0:
                won[i] += g_above * g_above / above


@numba.njit(nogil=True, cache=True)
def _keep(won, f, found, gain, feature, left):
    """Makes room for a candidate among the best; returns how many there are, and its place."""
    if found < len(gain):
        found += 1
    place = found - 1
    while place > 0 and gain[place - 1] < won:
        gain[place], feature[place] = gain[place - 1], feature[place - 1]
        for i in range(4):
            left[place, i] = left[place - 1, i]
        place -= 1
    gain[place], feature[place] = won, f
    return found, place
