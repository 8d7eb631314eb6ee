"""The Changes: what about the training could have been different, and lists of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from influence.checks import check_share, check_whole
from influence.errors import InputError, UnsupportedChangeError

if TYPE_CHECKING:
    from influence.result import Influence

Positions = NDArray[np.int64]


def row_positions(rows: ArrayLike, name: str) -> Positions:
    """Positions of rows, each once; `name` is for messages."""
    array = as_array(rows, name)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{name} must be a list of row positions (integers), got an array of dtype "
            f"{array.dtype} and shape {array.shape}; for a boolean mask use np.flatnonzero(mask)."
        )
    if array.size and array.min() < 0:
        raise InputError(f"{name} must count from 0, got {int(array.min())}.")
    unique = np.unique(array.astype(np.int64))
    if unique.size != array.size:
        raise InputError(f"{name} names a row more than once; give each row once.")
    return array.astype(np.int64)


def as_array(values: ArrayLike, name: str) -> NDArray[np.generic]:
    """An array, of rows of one length."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(
            f"{name} must be of one length for each row, but is not: {error}"
        ) from error


def as_shares(fractions: Sequence[float]) -> NDArray[np.float64]:
    """Shares of the training rows, shape (n_fractions,)."""
    try:
        shares = np.asarray(fractions, dtype=np.float64)
    except (TypeError, ValueError):
        shares = np.empty(0)
    if shares.ndim != 1 or not shares.size or not ((shares >= 0) & (shares <= 1)).all():
        raise InputError(
            "fractions must be a list of shares between 0 and 1, e.g. (0, 0.01), got "
            f"{fractions!r}."
        )
    return shares


def check_range(rows: Positions, n_train: int, name: str) -> None:
    """Refuses positions beyond the training rows."""
    if rows.size and rows.max() >= n_train:
        raise InputError(
            f"{name} names row {int(rows.max())}, but the run has {n_train} training rows "
            f"(positions 0 to {n_train - 1})."
        )


@dataclass(frozen=True, eq=False)
class Without:
    """Training without some rows.

    Args:
        rows: Positions of the rows left out, in the order the run was traced; may be empty.
    """

    rows: Positions

    def __init__(self, rows: ArrayLike | frozenset[int] | set[int]) -> None:
        listed = list(rows) if isinstance(rows, set | frozenset) else rows
        positions = row_positions(listed, "Without(rows)")
        object.__setattr__(self, "rows", np.sort(positions) if listed is not rows else positions)

    def removed(self, n_train: int) -> NDArray[np.float64]:
        """1 - r per training row: 1 where a row is left out, shape (n_train,)."""
        check_range(self.rows, n_train, "Without(rows)")
        removed = np.zeros(n_train)
        removed[self.rows] = 1.0
        return removed


@dataclass(frozen=True, eq=False)
class Reweighted:
    """Training with other row weights.

    Args:
        multipliers: Non-negative multipliers r of the fitted weights, shape (n_train,);
            1 keeps a row, 0 leaves it out, 2 counts it twice.
    """

    multipliers: NDArray[np.float64]

    def __init__(self, multipliers: ArrayLike) -> None:
        try:
            array = np.asarray(multipliers, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"Reweighted(multipliers) must be numbers of shape (n_train,): {error}."
            ) from error
        if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any():
            raise InputError(
                "Reweighted(multipliers) must be finite non-negative numbers of shape (n_train,), "
                f"got shape {array.shape}."
            )
        object.__setattr__(self, "multipliers", array)

    def removed(self, n_train: int) -> NDArray[np.float64]:
        """1 - r per training row, shape (n_train,)."""
        if self.multipliers.size != n_train:
            raise InputError(
                f"Reweighted(multipliers) has {self.multipliers.size} multipliers, "
                f"but the run has {n_train} training rows; give one for each."
            )
        return 1.0 - self.multipliers


@dataclass(frozen=True, eq=False)
class Relabelled:
    """Training with other labels on some rows.

    Args:
        rows: Positions of the rows.
        labels: Their new labels, as the model's user writes them, shape (len(rows),), or
            (len(rows), n_targets) for several targets.
    """

    rows: Positions
    labels: NDArray[np.generic]

    def __init__(self, rows: ArrayLike, labels: ArrayLike) -> None:
        positions, new = row_positions(rows, "Relabelled(rows)"), as_array(labels, "labels")
        if new.shape[:1] != positions.shape:
            raise InputError(
                f"Relabelled needs one label for each row, got {positions.size} rows and labels "
                f"of shape {new.shape}."
            )
        object.__setattr__(self, "rows", positions)
        object.__setattr__(self, "labels", new)

    def apply(self, target: NDArray[np.generic]) -> NDArray[np.generic]:
        """The training labels after the change, shape (n_train,)."""
        check_range(self.rows, len(target), "Relabelled(rows)")
        if self.labels.shape[1:] != target.shape[1:]:
            raise InputError(
                f"Expected labels of shape {(len(self.rows), *target.shape[1:])}, one for each row "
                f"of Relabelled as in the training target, got shape {self.labels.shape}."
            )
        changed = np.array(target, dtype=object)  # each label keeps its own type
        changed[self.rows] = self.labels.tolist()
        return changed


@dataclass(frozen=True, eq=False)
class Reordered:
    """Training on the same batches in another order.

    Args:
        order: The batch id of every step, the same multiset as recorded; the learning rate
            stays with the step.
    """

    order: Positions

    def __init__(self, order: ArrayLike) -> None:
        array = np.asarray(order)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu" or array.min() < 0:
            raise InputError(
                "Reordered(order) must be a non-empty list of batch ids (integers from 0), got an "
                f"array of dtype {array.dtype} and shape {array.shape}."
            )
        object.__setattr__(self, "order", array.astype(np.int64))


Change = Without | Reweighted | Relabelled | Reordered


def removed_weight(change: Change, n_train: int) -> NDArray[np.float64]:
    """1 - r for every training row of a change of weights, shape (n_train,).

    Raises:
        UnsupportedChangeError: The change is one of labels or order.
    """
    if isinstance(change, Without | Reweighted):
        return change.removed(n_train)
    raise UnsupportedChangeError(
        f"Influence values answer changes of row weights (Without, Reweighted), got "
        f"{type(change).__name__}. For other labels ask an estimator that answers them (BoostIn, "
        "LeafInfluence, AXIL: predict(Relabelled(rows, labels), ...)), or retrain; "
        "for another order ask SampleOrder about a recorded training."
    )


def leave_one_out(n_train: int, rows: ArrayLike | None = None) -> list[Without]:
    """`Without` of one row each: of every row, or of the `rows` given."""
    chosen = np.arange(n_train) if rows is None else row_positions(rows, "leave_one_out(rows)")
    check_range(chosen, n_train, "leave_one_out(rows)")
    return [Without([row]) for row in chosen]


def random_subsets(n_train: int, keep: float, n: int, seed: int) -> list[Without]:
    """Changes that each keep a random subset of the rows (for the linear datamodelling score).

    Args:
        n_train: Number of training rows.
        keep: Share of the rows kept, between 0 and 1.
        n: Number of subsets.
        seed: Seed of the draws.
    """
    check_share("keep", keep)
    for name, value in (("n_train", n_train), ("n", n), ("seed", seed)):
        check_whole(name, value)
    rng = np.random.default_rng(seed)
    n_removed = n_train - round(keep * n_train)
    return [Without(np.sort(rng.permutation(n_train)[:n_removed])) for _ in range(n)]


def remove_top(influence: "Influence", fractions: Sequence[float]) -> list[Without]:
    """Changes that leave out the rows of largest total influence, one for each fraction."""
    if not hasattr(influence, "total"):
        raise InputError(
            "Expected the influence of every row (an Influence, of `explain`), got a "
            f"{type(influence).__name__}."
        )
    order = np.argsort(-influence.total(), kind="stable")
    return [Without(order[: round(share * len(order))]) for share in as_shares(fractions)]


def random_orders(n_batches: int, n: int, seed: int, n_epochs: int = 1) -> list[Reordered]:
    """Random orders of the batches, each epoch shuffled on its own."""
    for name, value in (("n_batches", n_batches), ("n", n), ("seed", seed), ("n_epochs", n_epochs)):
        check_whole(name, value)
    rng = np.random.default_rng(seed)
    return [
        Reordered(np.concatenate([rng.permutation(n_batches) for _ in range(n_epochs)]))
        for _ in range(n)
    ]
