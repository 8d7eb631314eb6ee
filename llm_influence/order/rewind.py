"""`rewind`: the states of a computation from last to first, without keeping them all."""

from collections.abc import Callable, Iterator
from math import isqrt
from typing import TypeVar

State = TypeVar("State")


def rewind(
    start: State, advance: Callable[[int, State], State], n_steps: int
) -> Iterator[tuple[int, State]]:
    """Yields (n_steps, last state), ..., (1, state after the first step), (0, start).

    Keeps about 2 sqrt(n_steps) states and takes every step at most twice.

    Args:
        start: The state before step 0.
        advance: From a step and the state before it to the state after it; the same each time.
        n_steps: Number of steps.
    """
    length = max(1, isqrt(n_steps))
    kept, state = [start], start
    for step in range(n_steps):
        state = advance(step, state)
        if (step + 1) % length == 0 and step + 1 < n_steps:
            kept.append(state)
    yield n_steps, state
    last = n_steps
    while kept:
        first, states = (len(kept) - 1) * length, [kept.pop()]
        for step in range(first, last - 1):
            states.append(advance(step, states[-1]))
        for step in range(last - 1, first - 1, -1):
            yield step, states.pop()
        last = first
