"""`Places`: where in a training each batch, or each sample, is taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from influence.change import Reordered
from influence.errors import InputError

Unit = Literal["sample", "batch"]


@dataclass(frozen=True, eq=False)
class Places:
    """An order of training is an item for every place; items are batches or samples.

    The gradient of a step is the sum over its places of share times gradient of the item's mean
    loss.

    Attributes:
        n_items: Number of distinct items.
        recorded: The item of every place as recorded, shape (n_places,).
        steps: The step of every place, ascending, same shape.
        shares: What the item of a place counts in its step, same shape; 1 for a step of one batch.
        epochs: First place of every epoch, where each epoch takes every item once; else (0,).
    """

    n_items: int
    recorded: NDArray[np.int64]
    steps: NDArray[np.int64]
    shares: NDArray[np.float64]
    epochs: tuple[int, ...]

    def __str__(self) -> str:
        """Both counts and the steps, for messages."""
        items, steps = (("" if n == 1 else "s") for n in (self.n_items, self.n_steps))
        return f"{self.n_items} item{items} in {self.n_steps} step{steps}"

    @property
    def n_places(self) -> int:
        return len(self.recorded)

    @property
    def n_steps(self) -> int:
        return int(self.steps[-1]) + 1

    @property
    def chances(self) -> NDArray[np.float64]:
        """Share of each item in the training, shape (n_items,)."""
        return self.counts / self.n_places

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each item is taken, shape (n_items,)."""
        return np.bincount(self.recorded, minlength=self.n_items)

    @property
    def fixed(self) -> bool:
        """Whether every order is the same training: of one item, or of one step."""
        one_step = not (np.ptp(self.steps) or np.ptp(self.shares))
        return one_step or not np.ptp(self.recorded)

    def n_different(self, orders: NDArray[np.int64]) -> int:
        """How many different trainings orders are, shape (n_orders, n_places)."""
        return len(np.unique(self.sorted_in_steps(orders), axis=0))

    def sorted_in_steps(self, orders: NDArray[np.int64]) -> NDArray[np.int64]:
        """Orders with the items of each step sorted, where they count alike; same shape.

        Orders that are then equal are the same training.
        """
        sorted_ = [order[np.lexsort((order, self.shares, self.steps))] for order in orders]
        return np.array(sorted_).reshape(-1, self.n_places)

    def of_step(self, step: int) -> slice:
        """The places of a step."""
        first, last = np.searchsorted(self.steps, [step, step + 1])
        return slice(int(first), int(last))

    def check(self, change: Reordered) -> NDArray[np.int64]:
        """The order of a change, shape (n_places,).

        Raises:
            InputError: It is no permutation of the recorded one.
        """
        order = change.order
        if order.size == self.n_places and (np.sort(order) == np.sort(self.recorded)).all():
            return order
        unknown = np.setdiff1d(order, self.recorded)
        taken = np.bincount(order[order < self.n_items], minlength=self.n_items)
        other = np.flatnonzero(taken != self.counts)
        raise InputError(
            f"Expected an order of all {self.n_places} places that takes each of the "
            f"{self.n_items} items as often as it was trained on, got {order.size} entries"
            + (f", {taken[other[0]]} of them {other[0]}" if other.size else "")
            + (f" (recorded: {self.counts[other[0]]})" if other.size else "")
            + (f", one of them {unknown[0]}, which was not recorded" if unknown.size else "")
            + ". Permute run.places.recorded, or take "
            "influence.random_orders(n_batches, n, seed, n_epochs)."
        )


def places(items: Sequence[NDArray[np.int64]], accumulate: int, n_items: int) -> Places:
    """The places of a training.

    Args:
        items: The items of every pass of the recorded training, in its order.
        accumulate: Passes of a step.
        n_items: Number of distinct items.
    """
    sizes = np.array([len(one) for one in items])
    recorded = np.concatenate(items)
    passes = np.repeat(np.arange(len(items)), sizes)
    shares = 1.0 / (accumulate * sizes[passes])
    return Places(n_items, recorded, passes // accumulate, shares, _epochs(recorded, n_items))


def _epochs(recorded: NDArray[np.int64], n_items: int) -> tuple[int, ...]:
    n, rest = divmod(len(recorded), n_items)
    whole = not rest and all(
        len(set(part.tolist())) == n_items for part in np.split(recorded, max(n, 1))
    )
    return tuple(range(0, len(recorded), n_items)) if whole else (0,)


def check_unit(unit: Any) -> Unit:
    """Refuses what a training row cannot be."""
    if unit not in ("sample", "batch"):
        raise InputError(f'unit must be "sample" or "batch", got {unit!r}.')
    return unit
