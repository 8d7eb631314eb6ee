"""Rankings of training rows, whatever form the influence that ranks them has."""

import numpy as np
from numpy.typing import NDArray

from influence.errors import InputError
from influence.result import Influence, strongest
from influence.top import TopInfluence

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Ranks = Influence | TopInfluence | Floats


def n_train_of(influence: Ranks) -> int:
    """Number of training rows."""
    if isinstance(influence, TopInfluence):
        return len(influence.train_index)
    return len(_values(influence))


def n_rankings(influence: Ranks) -> int:
    """One for each query, or 1 where a single ranking serves all."""
    if isinstance(influence, TopInfluence):
        return len(influence.highest_rows)
    return _values(influence).shape[1]


def is_common(influence: Ranks) -> bool:
    """Whether a single ranking serves all queries: values of shape (n_train,)."""
    return not isinstance(influence, Influence | TopInfluence) and np.ndim(influence) == 1


def ranked_rows(influence: Ranks, k: int) -> Rows:
    """The k rows of largest influence, strongest first, shape (n_rankings, k).

    Raises:
        InputError: A `TopInfluence` holds fewer rows, or values are not finite.
    """
    if isinstance(influence, TopInfluence):
        held = influence.highest_rows.shape[1]
        if k > held:
            raise InputError(
                f"Expected the {k} strongest rows of each query, but this result holds {held}: "
                f"call explain_top with k={k}, or ask for fewer rows."
            )
        return influence.highest_rows[:, :k]
    values = _values(influence)
    if k == 0:
        return np.empty((values.shape[1], 0), dtype=np.int64)
    return strongest(values, k, 1.0)[0]


def proponents_of(influence: Ranks, query: int) -> Rows:
    """All rows known to be of positive influence on a query, strongest first."""
    n = n_rankings(influence)
    if not 0 <= query < n and not is_common(influence):
        raise InputError(f"query must be a position from 0 to {n - 1}, got {query}.")
    if isinstance(influence, TopInfluence):
        return influence.highest_rows[query][influence.highest[query] > 0]
    column = _values(influence)[:, 0 if is_common(influence) else query]
    ranked = strongest(column[:, None], len(column), 1.0)[0][0]
    return ranked[column[ranked] > 0]


def _values(influence: Influence | Floats) -> Floats:
    """Values of shape (n_train, n_rankings)."""
    given = influence.values if isinstance(influence, Influence) else influence
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected influence as numbers, but {error}.") from error
    if values.ndim not in (1, 2) or not values.size:
        raise InputError(
            "Expected influence of shape (n_train, n_queries) or (n_train,), got shape "
            f"{values.shape}."
        )
    return values[:, None] if values.ndim == 1 else values
