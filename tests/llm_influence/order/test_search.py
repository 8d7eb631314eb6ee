"""Orders by assignment and annealing, against all orders of tiny runs."""

from itertools import permutations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_influence.order.places import Places, places
from llm_influence.order.search import annealed, assigned, epochs_of, judging, shuffled


def made(n_items: int, n_epochs: int) -> Places:
    return places([np.array([i]) for _ in range(n_epochs) for i in range(n_items)], 1, n_items)


def keeps_epochs(order: np.ndarray, of: Places) -> bool:
    return all(
        sorted(order[epoch]) == sorted(of.recorded[epoch].tolist()) for epoch in epochs_of(of)
    )


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 2), st.integers(0, 1000))
def test_the_assigned_order_is_the_best_of_all(n_items: int, n_epochs: int, seed: int) -> None:
    of = made(n_items, n_epochs)
    values = np.random.default_rng(seed).normal(size=(of.n_places, n_items))
    every = [
        np.concatenate(epochs)
        for epochs in product(*[list(permutations(range(n_items)))] * n_epochs)
    ]
    losses = [values[np.arange(of.n_places), order].sum() for order in every]
    order = assigned(values, of)
    assert keeps_epochs(order, of)
    assert np.isclose(values[np.arange(of.n_places), order].sum(), min(losses))


def test_repeated_items_are_assigned_as_often_as_taken() -> None:
    of = places([np.array([i]) for i in [0, 0, 1, 2]], 1, 3)
    values = np.random.default_rng(0).normal(size=(4, 3))
    order = assigned(values, of)
    every = {tuple(p) for p in permutations([0, 0, 1, 2])}
    assert tuple(order) == min(every, key=lambda p: sum(values[t, i] for t, i in enumerate(p)))


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))
def test_annealing_keeps_epochs_and_never_gets_worse(
    n_items: int, n_epochs: int, seed: int
) -> None:
    of = made(n_items, n_epochs)
    table = np.random.default_rng(seed).normal(size=(of.n_places, of.n_places))

    def losses(orders: np.ndarray) -> np.ndarray:
        picked = table[np.arange(of.n_places), orders]
        return picked.sum(axis=1) + picked[:, 0] * picked[:, -1]

    begin = shuffled(of, 3, seed)
    best = annealed(losses, begin, of, seed, n=300)
    assert keeps_epochs(best, of)
    assert losses(best[None])[0] <= losses(begin).min()
    assert np.array_equal(best, annealed(losses, begin, of, seed, n=300))


def test_annealing_finds_the_best_of_720_orders() -> None:
    of = made(6, 1)
    table = np.random.default_rng(3).normal(size=(6, 6))

    def losses(orders: np.ndarray) -> np.ndarray:
        pairs = table[orders[:, :-1], orders[:, 1:]]
        return pairs.sum(axis=1)

    every = np.array(list(permutations(range(6))))
    best = annealed(losses, shuffled(of, 4, 0), of, seed=0, n=4000)
    assert np.isclose(losses(best[None])[0], losses(every).min())


def test_annealing_finds_the_best_assignment() -> None:
    of = made(8, 1)
    values = np.random.default_rng(4).normal(size=(8, 8))

    def losses(orders: np.ndarray) -> np.ndarray:
        return values[np.arange(8), orders].sum(axis=1)

    best = annealed(losses, shuffled(of, 16, 0), of, seed=0, n=6000)
    assert np.isclose(losses(best[None])[0], losses(assigned(values, of)[None])[0])


def test_random_orders_keep_epochs_and_follow_the_seed() -> None:
    of = made(5, 3)
    orders = shuffled(of, 20, seed=1)
    assert all(keeps_epochs(order, of) for order in orders)
    assert np.array_equal(orders, shuffled(of, 20, seed=1))
    assert not np.array_equal(orders, shuffled(of, 20, seed=2))


def test_a_method_is_judged_by_orders_it_does_not_draw() -> None:
    of = made(12, 1)
    calibrating, comparing = judging(of, 3, 5), judging(of, 20, 5, after=3)
    assert len(np.unique(np.concatenate([calibrating, comparing]), axis=0)) == 23
    seen = {tuple(order) for order in shuffled(of, 64, 5)}
    assert not any(tuple(order) in seen for order in (*calibrating, *comparing))
