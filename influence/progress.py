"""The one progress bar: shown on a terminal once work has taken more than a second."""

from collections.abc import Iterable, Iterator
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
    from tqdm import tqdm

    yield from tqdm(items, desc=what, total=total, disable=None if show else True, delay=1)
