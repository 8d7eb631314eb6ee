"""The one progress bar: shown on a terminal once work has taken more than a second."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int, show: bool = True) -> Iterator[T]:
    """Passes items on while showing how many are done and the time left.

    Args:
        items: What is worked through.
        what: Label of the bar.
        total: Number of items.
        show: False silences the bar; it is silent anyway where the output is no terminal.
    """
    with counting(what, total, show) as done:
        for item in items:
            yield item
            done(1)


@contextmanager
def counting(what: str, total: int, show: bool = True) -> Iterator[Callable[[int], object]]:
    """The bar for work that comes in pieces of several items, and what moves it on.

    Args:
        what: Label of the bar.
        total: Number of items.
        show: As of `track`.
    """
    from tqdm import tqdm

    with tqdm(desc=what, total=total, disable=None if show else True, delay=1) as bar:
        yield bar.update
