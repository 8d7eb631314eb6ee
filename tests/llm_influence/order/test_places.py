"""Where items are taken: steps, shares, epochs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from influence.change import Reordered
from influence.errors import InputError
from llm_influence.order.places import places
from tests.llm_influence.order.tiny import adapted, pairs


@st.composite
def trainings(draw: st.DrawFn) -> tuple[list[NDArray[np.int64]], int, int]:
    """The items of every pass, passes of a step, number of items."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    first = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    n_epochs, accumulate = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    passes = [p for _ in range(n_epochs) for p in draw(st.permutations(first))]
    whole = passes[: len(passes) - len(passes) % accumulate] or passes * accumulate
    return whole, accumulate, sum(sizes)


@given(trainings())
def test_steps_and_shares(training: tuple[list[NDArray[np.int64]], int, int]) -> None:
    passes, accumulate, n_items = training
    found = places(passes, accumulate, n_items)
    assert found.n_places == sum(map(len, passes))
    assert found.n_steps == len(passes) // accumulate
    for step in range(found.n_steps):
        here = found.of_step(step)
        taken = passes[step * accumulate : (step + 1) * accumulate]
        assert found.recorded[here].tolist() == np.concatenate(taken).tolist()
        wanted = np.concatenate([np.full(len(p), 1 / accumulate / len(p)) for p in taken])
        np.testing.assert_allclose(found.shares[here], wanted)
        assert np.isclose(found.shares[here].sum(), 1)
    np.testing.assert_array_equal(
        found.counts, [sum((p == i).sum() for p in passes) for i in range(n_items)]
    )


@given(st.integers(1, 6), st.integers(1, 4), st.randoms(use_true_random=False))
def test_epochs_are_found(n_items: int, n_epochs: int, random: object) -> None:
    rng = np.random.default_rng(n_items * 10 + n_epochs)
    order = np.concatenate([rng.permutation(n_items) for _ in range(n_epochs)])
    found = places([np.array([i]) for i in order], 1, n_items)
    assert found.epochs == tuple(range(0, n_items * n_epochs, n_items))


def test_a_training_with_no_epochs_is_one() -> None:
    order = [0, 0, 1, 2]
    assert places([np.array([i]) for i in order], 1, 3).epochs == (0,)
    assert places([np.array([i]) for i in [0, 1, 1, 0, 2, 2]], 1, 3).epochs == (0,)


def test_places_of_a_run_of_uneven_batches() -> None:
    run = adapted(batches=pairs(3, [1, 2, 3]), order=[0, 1, 2, 1], record_options={"accumulate": 2})
    assert run.places.recorded.tolist() == [0, 1, 2, 1]
    assert run.places.shares.tolist() == [0.5] * 4
    samples = run.by("sample").places
    assert samples.recorded.tolist() == [0, 1, 2, 3, 4, 5, 1, 2]
    np.testing.assert_allclose(samples.shares, [1 / 2, 1 / 4, 1 / 4, *[1 / 6] * 3, 1 / 4, 1 / 4])
    assert samples.n_steps == 2


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ([0, 1, 2], r"all 4 places .* got 3 entries, 0 of them 3 \(recorded: 1\)"),
        ([0, 1, 2, 7], "one of them 7, which was not recorded"),
        ([0, 1, 1, 2], r"2 of them 1 \(recorded: 1\)"),
        ([0, 1, 2, 3, 3], "got 5 entries"),
    ],
)
def test_orders_of_other_batches_are_refused(order: list[int], told: str) -> None:
    run = adapted()
    with pytest.raises(InputError, match=told):
        run.train(Reordered(order))
