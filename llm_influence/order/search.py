"""Orders: random ones, the best by assignment, the best by search."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from llm_influence.order.places import Places

Orders = NDArray[np.int64]
Floats = NDArray[np.float64]

JUDGING = 1  # the stream of a seed that orders to judge by are drawn from


def epochs_of(places: Places) -> Iterator[slice]:
    """The places of every epoch; all places where the run has none."""
    ends = (*places.epochs[1:], places.n_places)
    return (slice(first, last) for first, last in zip(places.epochs, ends, strict=True))


def shuffled(places: Places, n: int, seed: int | tuple[int, int]) -> Orders:
    """Random orders, each epoch shuffled by itself, shape (n, n_places)."""
    rng = np.random.default_rng(seed)
    orders = np.repeat(places.recorded[None], n, axis=0)
    for order in orders:
        for epoch in epochs_of(places):
            order[epoch] = rng.permutation(order[epoch])
    return orders


def judging(places: Places, n: int, seed: int, *, after: int = 0) -> Orders:
    """Random orders for judging a method of the same seed, drawn apart from all that it draws.

    The n after `after` others are drawn apart from these, too. Small trainings have so few orders
    that some are drawn again.
    """
    return shuffled(places, after + n, (seed, JUDGING))[after:]


def balanced(places: Places, n: int, seed: int) -> Orders:
    """Random orders that take every item at places spread evenly over its epoch.

    In order k each item of an epoch is k / n of its length later than in order 0, so that as many
    orders as items take every item at every place once. Shape (n, n_places).
    """
    rng = np.random.default_rng(seed)
    orders = np.repeat(places.recorded[None], n, axis=0)
    for epoch in epochs_of(places):
        items = rng.permutation(places.recorded[epoch])
        at, turns = rng.permutation(len(items)), rng.permutation(n)
        later = np.rint(turns * len(items) / n).astype(np.int64)
        orders[:, epoch] = items[(at + later[:, None]) % len(items)]
    return orders


def assigned(positions: Floats, places: Places) -> Orders:
    """The order of least sum of positions[place, item], shape (n_places,): exact.

    Args:
        positions: Shape (n_places, n_items).
    """
    from scipy.optimize import linear_sum_assignment

    order = places.recorded.copy()
    for epoch in epochs_of(places):
        items = order[epoch]
        place, chosen = linear_sum_assignment(positions[epoch][:, items])
        order[epoch] = items[chosen[np.argsort(place)]]
    return order


def annealed(
    losses: Callable[[Orders], Floats], begin: Orders, places: Places, seed: int, n: int = 20_000
) -> Orders:
    """An order of small loss: swaps and moves within epochs, accepted by simulated annealing.

    Args:
        losses: From orders, shape (n_orders, n_places), to what is minimised, shape (n_orders,).
        begin: Orders to begin with, shape (n_chains, n_places).
        places: Of the run.
        seed: Of the proposals.
        n: Orders tried in all.

    Returns:
        The best order seen, shape (n_places,).
    """
    rng = np.random.default_rng(seed)
    chains = begin.copy()
    now = losses(chains)
    best, least = chains[now.argmin()].copy(), float(now.min())
    spread = float(now.std()) or abs(least) * 1e-6 or 1e-12
    n_rounds = max(1, n // len(chains))
    for k in range(n_rounds):
        temperature = spread * (1 - k / n_rounds) ** 2 / 4
        proposed = np.stack([_neighbour(chain, places, rng) for chain in chains])
        found = losses(proposed)
        worse = np.maximum(found - now, 0)
        taken = rng.random(len(now)) < np.exp(-worse / max(temperature, 1e-300))
        chains[taken], now[taken] = proposed[taken], found[taken]
        if now.min() < least:
            best, least = chains[now.argmin()].copy(), float(now.min())
    return best


def swapped(order: Orders, i: int, j: int) -> Orders:
    """The order with the items of two places swapped."""
    changed = order.copy()
    changed[[i, j]] = changed[[j, i]]
    return changed


def shifted(order: Orders, i: int, j: int) -> Orders:
    """The order with the item of place i moved to place j, those between moving up."""
    return np.insert(np.delete(order, i), j, order[i])


def _neighbour(order: Orders, places: Places, rng: np.random.Generator) -> Orders:
    """The order with two places swapped, or one item moved, within an epoch."""
    epochs = list(epochs_of(places))
    epoch = epochs[rng.integers(len(epochs))]
    i, j = rng.integers(epoch.stop - epoch.start, size=2)
    change = swapped if rng.random() < 0.5 else shifted
    changed = order.copy()
    changed[epoch] = change(order[epoch], i, j)
    return changed
