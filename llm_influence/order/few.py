"""What may be said of agreement over few orders, and whether a training has others at all."""

from math import isfinite

import numpy as np

from influence.errors import InputError
from llm_influence.order.places import Places
from llm_influence.order.search import shuffled

FEW = 8  # different orders below which no interval is stated

DRAWN = 64  # random orders among which other ones are looked for

Interval = tuple[float, float]


def stated(interval: Interval, n: int) -> Interval | None:
    """The bootstrap interval over so many orders.

    None of few, among which resampling finds no spread, and where it is not finite.
    """
    return None if n < FEW or not all(map(isfinite, interval)) else interval


def bracketed(interval: Interval | None, digits: int = 2) -> str:
    """An interval as it stands behind its mean; nothing of None."""
    if interval is None:
        return ""
    low, high = (f"{end:.{digits}f}" for end in interval)
    return f" [{low}, {high}]"


def counted(n: int) -> str:
    """How many orders, in words; says so where they are few."""
    told = f"{n} {'order' if n == 1 else 'orders'}"
    return told + (", which is few" if n < FEW else "")


def check_orders(places: Places) -> None:
    """Refuses a training that no other order would change."""
    if places.fixed:
        raise InputError(
            "Expected a training that another order would change, but every order of this one, "
            f"{places}, is the same training; record one of more batches (a smaller batch size)."
        )


def n_others(places: Places, seed: int) -> int:
    """How many trainings besides the recorded one are among 64 random orders."""
    drawn = shuffled(places, DRAWN, seed)
    return places.n_different(np.stack([places.recorded, *drawn])) - 1
