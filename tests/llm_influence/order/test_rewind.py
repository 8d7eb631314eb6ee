"""States backwards: which, how often computed, how many kept."""

import gc
import weakref
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from llm_influence.order.rewind import rewind

STEPS = st.integers(0, 150)


class State:
    """A number that can be watched."""

    def __init__(self, value: int) -> None:
        self.value = value


@given(STEPS)
def test_states_come_from_last_to_first(n_steps: int) -> None:
    forward = [1]
    for step in range(n_steps):
        forward.append((3 * forward[-1] + step) % 1009)
    found = list(rewind(1, lambda step, x: (3 * x + step) % 1009, n_steps))
    assert found == list(enumerate(forward))[::-1]


@given(STEPS)
def test_every_step_is_taken_at_most_twice(n_steps: int) -> None:
    taken: Counter[int] = Counter()

    def advance(step: int, state: int) -> int:
        assert state == step, "a step was given the state of another one"
        taken[step] += 1
        return step + 1

    assert [state for _, state in rewind(0, advance, n_steps)] == list(range(n_steps, -1, -1))
    assert set(taken) == set(range(n_steps)) and max(taken.values(), default=0) <= 2


@given(STEPS)
def test_few_states_are_kept(n_steps: int) -> None:
    alive: weakref.WeakSet[State] = weakref.WeakSet()
    most = 0

    def advance(step: int, state: State) -> State:
        nonlocal most
        made = State(state.value + 1)
        alive.add(made)
        most = max(most, len(alive))
        return made

    gc.disable()
    try:
        for step, state in rewind(State(0), advance, n_steps):
            assert state.value == step
    finally:
        gc.enable()
    assert most <= 2 * n_steps**0.5 + 5, f"{most} states were held at once"
