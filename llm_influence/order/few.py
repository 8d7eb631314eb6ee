"""What may be said of agreement over few orders: resampling finds no spread among them."""

from math import isfinite

FEW = 8  # different orders below which no interval is stated

Interval = tuple[float, float]


def stated(interval: Interval, n: int) -> Interval | None:
    """The bootstrap interval over so many different orders; None of few, and of no spread."""
    return None if n < FEW or not all(map(isfinite, interval)) else interval


def bracketed(interval: Interval | None, digits: int = 2) -> str:
    """An interval as it stands behind its mean; nothing of None."""
    if interval is None:
        return ""
    low, high = (f"{end:.{digits}f}" for end in interval)
    return f" [{low}, {high}]"


def counted(n: int, different: int) -> str:
    """How many orders, and how many different ones, in words; says so where they are few."""
    told = f"{n} {'order' if n == 1 else 'orders'}"
    told += "" if different == n else f" ({different} different)"
    return told + (", which is few" if different < FEW else "")
