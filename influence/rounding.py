"""What of influence is no more than rounding, and has no sign.

Terms that cancel leave about 1e-17 of their size, of either sign. A query's values are measured by
the largest of them; where even that is rounding, as all of them cancel, by the largest of the whole
result. A result of that query alone has no such measure, and its values stay.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING = 1e-12  # share of the largest value up to which a value is rounding


def rounding_floor(highest: Floats, lowest: Floats) -> Floats:
    """The size up to which a value is rounding, for each query, shape (n_queries,).

    Args:
        highest: Largest value of each query, shape (n_queries,).
        lowest: Smallest value of each query, shape (n_queries,).
    """
    own = np.maximum(highest, -lowest)
    all_over = own[np.isfinite(own)].max(initial=0.0)
    return ROUNDING * np.where(own > ROUNDING * all_over, own, all_over)
