"""`SampleOrder`: what its answers promise, whatever the method."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from influence.change import Relabelled, Reordered, Without
from influence.errors import (
    InputError,
    NotFittedError,
    TrainingDataError,
    UnsupportedChangeError,
)
from llm_influence import Galerkin, MeanField, OptimizerRun, Pair, SampleOrder, Taylor
from llm_influence.order.method import Asked, Built, Method
from llm_influence.order.run import BatchQueries
from llm_influence.order.search import judging, shuffled
from tests.llm_influence.order.recorded import batches, recorded
from tests.llm_influence.order.tiny import adapted, pairs

Floats = NDArray[np.float64]
Orders = NDArray[np.int64]
QUERIES = pairs(2, seed=5)


@dataclasses.dataclass(frozen=True)
class Told(Method):
    """A method that answers what it is told; `asked` counts its questions."""

    losses: Callable[[OptimizerRun, BatchQueries, Orders], Floats]
    asked: list[int] = dataclasses.field(default_factory=list)

    def build(self, run: OptimizerRun, seed: int, progress: bool) -> Built:
        return _ToldBuilt(self, run)


@dataclasses.dataclass
class _ToldBuilt(Built):
    told: Told
    run: OptimizerRun

    def ask(self, queries: BatchQueries) -> Asked:
        self.told.asked.append(queries.n_queries)
        return _ToldAsked(self, queries)


@dataclasses.dataclass
class _ToldAsked(Asked):
    built: _ToldBuilt
    queries: BatchQueries

    def losses(self, orders: Orders) -> Floats:
        return self.built.told.losses(self.built.run, self.queries, orders)

    def best(self, seed: int, progress: bool) -> Orders:
        return self.built.run.places.recorded


def really(run: OptimizerRun, queries: BatchQueries, orders: Orders) -> Floats:
    return np.stack([run.losses_at(run.train(Reordered(o)), queries) for o in orders])


def constant(run: OptimizerRun, queries: BatchQueries, orders: Orders) -> Floats:
    return np.zeros((len(orders), queries.n_queries))


def backwards(run: OptimizerRun, queries: BatchQueries, orders: Orders) -> Floats:
    return -really(run, queries, orders)


def first_place(run: OptimizerRun, queries: BatchQueries, orders: Orders) -> Floats:
    return np.repeat(orders[:, :1].astype(float), queries.n_queries, axis=1)


def diverged(run: OptimizerRun, queries: BatchQueries, orders: Orders) -> Floats:
    return np.where(orders[:, :1] > 0, np.inf, 0) + constant(run, queries, orders)


def compare_ranks(a: Floats, b: Floats) -> float:
    found: Any = spearmanr(a, b)
    return float(found.statistic)


def test_effects_of_a_perfect_method_are_those_of_retraining() -> None:
    run = adapted()
    order = SampleOrder(Told(really), calibrate=5, seed=7).fit(run, progress=False)
    change = Reordered([3, 1, 0, 2])
    wanted = run.losses_at(run.train(change), run.queries(QUERIES)) - run.losses(
        run.queries(QUERIES)
    )
    np.testing.assert_allclose(order.predict(change, QUERIES), wanted, atol=1e-14)
    assert not order.predict(Reordered([0, 1, 2, 3]), QUERIES).any()
    calibration = order.ask(QUERIES).calibration
    assert calibration is not None
    assert calibration.spearman == pytest.approx(1) and calibration.slope == pytest.approx(1)
    assert str(calibration) == "rank agreement 1.00, slope 1.00, 5 orders, which is few"


def test_calibration_is_agreement_with_retrained_orders() -> None:
    run = adapted(batches=pairs(5))
    order = SampleOrder(Told(first_place), calibrate=4, seed=3).fit(run, progress=False)
    orders = np.concatenate([run.places.recorded[None], judging(run.places, 4, 3)])
    assert len(np.unique(orders, axis=0)) == 5
    queries = run.queries(QUERIES)
    real = really(run, queries, orders)
    real, predicted = real - real[0], orders[:, :1].astype(float).repeat(2, axis=1)
    calibration = order.ask(QUERIES).calibration
    assert calibration is not None and calibration.n_orders == 4
    ranks = [compare_ranks(predicted[:, j], real[:, j]) for j in range(2)]
    assert calibration.spearman == pytest.approx(np.mean(ranks))
    real, predicted = real - real.mean(axis=0), predicted - predicted.mean(axis=0)
    wanted = (real * predicted).sum() / (predicted**2).sum()
    assert calibration.slope == pytest.approx(wanted)


@pytest.mark.parametrize("losses", [backwards, constant])
def test_best_is_refused_where_calibration_is_poor(losses: Callable[..., Floats]) -> None:
    run = adapted()
    order = SampleOrder(Told(losses)).fit(run, progress=False)
    with pytest.raises(UnsupportedChangeError, match=r"rank agreement from 0.5 on.*anyway=True"):
        order.best(QUERIES, progress=False)
    found = order.best(QUERIES, anyway=True, progress=False)
    assert found.order.tolist() == run.places.recorded.tolist()
    once = SampleOrder(Told(losses), calibrate=1).fit(run, progress=False)
    with pytest.raises(UnsupportedChangeError, match=r"rank agreement nan, .* more orders"):
        once.best(QUERIES, progress=False)
    trusted = SampleOrder(Told(losses), calibrate=0).fit(run, progress=False)
    assert trusted.ask(QUERIES).calibration is None
    assert trusted.best(QUERIES, progress=False).order.tolist() == [0, 1, 2, 3]


def test_predictions_that_diverge_are_refused() -> None:
    order = SampleOrder(Told(diverged)).fit(adapted(), progress=False)
    with pytest.raises(TrainingDataError, match="not finite"):
        order.predict(Reordered([3, 1, 0, 2]), QUERIES)


def test_the_same_queries_are_worked_out_once() -> None:
    told = Told(constant)
    order = SampleOrder(told, calibrate=0).fit(adapted(), progress=False)
    for _ in range(2):
        order.predict(Reordered([3, 1, 0, 2]), [(x.clone(), y.clone()) for x, y in QUERIES])
    order.predict(Reordered([3, 1, 0, 2]), QUERIES[:1])
    assert told.asked == [2, 1]


def test_a_method_without_positions_says_so() -> None:
    order = SampleOrder(Told(constant), calibrate=0).fit(adapted(), progress=False)
    with pytest.raises(UnsupportedChangeError, match=r'no effect of a place .*"mean_field"'):
        order.positions(QUERIES)


def test_wrong_use_is_refused() -> None:
    run = adapted()
    order = SampleOrder(Told(constant), calibrate=0).fit(run, progress=False)
    with pytest.raises(UnsupportedChangeError, match="answers Reordered, got Without"):
        order.predict(Without([0]), QUERIES)
    with pytest.raises(UnsupportedChangeError, match="got Relabelled"):
        order.predict(Relabelled([0], [1]), QUERIES)
    with pytest.raises(InputError, match="2 of them 0"):
        order.predict(Reordered([0, 1, 2, 0]), QUERIES)
    with pytest.raises(InputError, match="list of batches"):
        order.predict(Reordered([3, 1, 0, 2]), QUERIES[0][0])
    with pytest.raises(NotFittedError):
        SampleOrder().predict(Reordered([0]), QUERIES)
    with pytest.raises(InputError, match="recorded training"):
        SampleOrder().fit(run.model, QUERIES)
    unfinished: Any = object()
    with pytest.raises(InputError, match=r"recording\.run"):
        SampleOrder().fit(unfinished)
    with pytest.raises(InputError, match=r'unit must be "sample" or "batch", got .token'):
        SampleOrder(unit="token")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"method must be one of mean_field.*got 'nonsense'"):
        SampleOrder("nonsense")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="calibrate must be a whole number"):
        SampleOrder(calibrate=-1)
    for queries in ((), (QUERIES, QUERIES)):
        with pytest.raises(InputError, match=f"got {len(queries)} arguments"):
            order.predict(Reordered([3, 1, 0, 2]), *queries)


@pytest.mark.parametrize("unit", ["batch", "sample"])
def test_a_random_order_of_the_unit_can_be_asked(unit: str) -> None:
    run = adapted(batches=pairs(3, 2), order=[0, 1, 2, 2, 0, 1])
    order = SampleOrder(Told(really), unit=unit, calibrate=2).fit(run, progress=False)  # pyright: ignore[reportArgumentType]
    assert order.run_.unit == unit
    (changed,) = shuffled(order.run_.places, 1, seed=2)
    weights = order.run_.train(Reordered(changed))
    assert not torch.equal(weights, run.final)
    assert order.predict(Reordered(changed), QUERIES).shape == (2,)


def test_swaps_and_moves_are_the_effects_of_those_orders() -> None:
    run = recorded(n_batches=4)
    queries = batches(2, seed=9)
    answer = SampleOrder(calibrate=0).fit(run).ask(queries)
    swaps, moves = answer.swaps(), answer.moves()
    assert swaps.shape == moves.shape == (2, 4, 4)
    np.testing.assert_allclose(swaps, swaps.transpose(0, 2, 1), atol=1e-12)
    swapped, moved = answer.effects([Reordered([0, 3, 2, 1]), Reordered([1, 2, 0, 3])])
    np.testing.assert_allclose(swaps[:, 1, 3], swapped, atol=1e-12)
    np.testing.assert_allclose(moves[:, 0, 2], moved, atol=1e-12)
    np.testing.assert_allclose(moves[:, 1, 2], swaps[:, 1, 2], atol=1e-12)


@pytest.mark.parametrize("unit", ["batch", "sample"])
@pytest.mark.parametrize(
    "method",
    [MeanField(), Galerkin(), Pair(), Taylor(), Taylor(1, "exact", "products")],
    ids=["mean_field", "galerkin", "pair", "taylor", "ceiling"],
)
def test_what_does_not_change_the_training_has_no_effect(method: Method, unit: Any) -> None:
    first, second, third = pairs(3, seed=2)
    twin = (first[0] + 1e-9, first[1])  # recorded as another batch, trains as the same one
    run = adapted(batches=[first, second, twin, third])
    order = SampleOrder(method, unit, calibrate=0).fit(run, progress=False)
    recorded = order.run_.places.recorded
    assert not order.predict(Reordered(recorded), QUERIES).any()
    n = 1 if unit == "batch" else 3
    swapped = recorded.copy()
    swapped[:n], swapped[2 * n : 3 * n] = recorded[2 * n : 3 * n], recorded[:n]
    scale = np.abs(order.predict(Reordered(recorded[::-1].copy()), QUERIES))
    assert (np.abs(order.predict(Reordered(swapped), QUERIES)) < 1e-6 * scale).all()


def test_of_few_orders_no_interval_is_stated() -> None:
    run = adapted(batches=[*pairs(5, seed=2)])
    few = SampleOrder(Pair(), calibrate=3).fit(run, progress=False).ask(QUERIES).calibration
    many = SampleOrder(Pair(), calibrate=20).fit(run, progress=False).ask(QUERIES).calibration
    assert few is not None and many is not None and many.interval is not None
    assert few.interval is None and "which is few" in str(few)
    assert many.interval[0] <= many.spearman <= many.interval[1] and "[" in str(many)
