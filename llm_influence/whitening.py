"""Whitening: inner products in the metric of the training rows' own second moment."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from influence.errors import InputError
from influence.run import blocks
from llm_influence.by_rows import AT_ONCE, Side
from llm_influence.rows import MOST_AT_ONCE, TrainRows

MOST_SIDE = 32_768  # of the matrix that is factored: 8 GiB in float64


def whitener(
    rows: TrainRows, checkpoint: int, n_train: int, width: int, side: Side, damping: float
) -> Callable[[Tensor], Tensor]:
    """From query rows g to (C + lambda I)^-1 g, with C = G^T G / n the second moment of train rows.

    lambda = damping * mean_i |g_i|^2 / n. Of C and the n x n matrix G G^T / n the smaller is
    factored (by Cholesky, in float64): O(min(n, width)^2 max(n, width)) once; a query then costs
    two passes over the rows where n is the smaller, none otherwise. The result is float64: with
    little damping it is long, and its products with the rows nearly cancel.

    Raises:
        InputError: Both sides are too large to factor.
    """
    smaller = min(n_train, width)
    if smaller > MOST_SIDE:
        raise InputError(
            f"Whitening factors a matrix of {smaller:,} x {smaller:,} numbers (the smaller of "
            f"training examples and row width), at most {MOST_SIDE:,} fit; use a smaller p, "
            "fewer modules, or whiten=None."
        )
    return (_primal if width <= n_train else _dual)(rows, checkpoint, n_train, width, side, damping)


def _primal(
    rows: TrainRows, checkpoint: int, n_train: int, width: int, side: Side, damping: float
) -> Callable[[Tensor], Tensor]:
    moment = torch.zeros(width, width, dtype=torch.float64)
    for _, values in rows.blocks(checkpoint):
        for part in side(values).cpu().split(AT_ONCE):
            wide = part.double()
            moment += wide.T @ wide
    moment /= n_train
    moment.diagonal().add_(_positive(damping * float(moment.trace()) / n_train))
    factor = _factor(moment, damping)

    def whiten(query: Tensor) -> Tensor:
        solved = torch.cholesky_solve(query.double().cpu().T, factor).T
        return solved.to(query.device)

    return whiten


def _dual(
    rows: TrainRows, checkpoint: int, n_train: int, width: int, side: Side, damping: float
) -> Callable[[Tensor], Tensor]:
    gram = torch.empty(n_train, n_train, dtype=torch.float64)
    for block in blocks(n_train, MOST_AT_ONCE // (8 * width)):
        left = side(rows.take(checkpoint, block)).double()
        for other, right in rows.blocks(checkpoint):
            gram[block, other] = (left @ side(right).double().T).cpu()
    gram /= n_train
    ridge = _positive(damping * float(gram.trace()) / n_train)
    gram.diagonal().add_(ridge)
    factor = _factor(gram, damping)

    def whiten(query: Tensor) -> Tensor:
        products = torch.empty(n_train, len(query), dtype=torch.float64)
        for block, values in rows.blocks(checkpoint):
            products[block] = (side(values).double() @ query.double().T).cpu()
        solved = torch.cholesky_solve(products, factor) / n_train
        inside = torch.zeros(query.shape, dtype=torch.float64)
        for block, values in rows.blocks(checkpoint):
            inside += solved[block].T @ side(values).double().cpu()
        return ((query.double().cpu() - inside) / ridge).to(query.device)

    return whiten


def _factor(matrix: Tensor, damping: float) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise InputError(
            f"Whitening needs a larger damping: with {damping:g} the second moment of these rows "
            "cannot be told from a singular matrix in float64."
        )
    return factor


def _positive(ridge: float) -> float:
    if not 0 < ridge < math.inf:
        raise InputError(
            "Whitening needs training rows that are not all zero and a damping above 0; every "
            "training gradient is zero here."
        )
    return ridge
