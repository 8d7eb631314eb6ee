"""`LeafError`: how far recomputed leaf values are from the stored ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LeafError:
    """Recomputed against stored leaf values, in units of the leaf scale.

    The leaf scale is the root mean square of the stored Newton values of leaves with rows, around
    the mean of their tree's rows: a shift that all rows share, as of targets far from the start,
    is no scale.
    """

    largest: float
    median: float

    def __str__(self) -> str:
        return f"largest {self.largest:.2g}, median {self.median:.2g} of the leaf scale"


def leaf_error(leaves: NDArray[np.integer], error: Floats, theta: Floats) -> LeafError:
    """Errors of the Newton values of all leaves of all trees, in leaf scales.

    Symmetric trees have leaves without rows, often most of them. They match at 0 whatever the
    rows, so scale and median are those of the others.
    """
    held = np.zeros(theta.shape[:2], dtype=bool)  # leaves that hold rows, (n_trees, n_leaves)
    spread_out = np.zeros_like(theta)
    for t in range(len(theta)):
        rows = np.bincount(leaves[t], minlength=theta.shape[1])
        held[t] = rows > 0
        spread_out[t] = theta[t] - rows @ theta[t] / rows.sum()
    scale, whole = (np.sqrt(np.mean(values[held] ** 2)) for values in (spread_out, theta))
    if scale <= 1e-12 * whole:  # trees of one leaf only
        scale = whole
    relative = np.abs(error).max(axis=2) / max(scale, np.finfo(float).tiny)
    return LeafError(float(relative.max(initial=0.0)), float(np.median(relative[held])))
