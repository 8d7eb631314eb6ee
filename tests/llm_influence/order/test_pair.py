"""The pair term of an order's effect."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from influence.change import Reordered
from influence.errors import NotYetSupportedError
from llm_influence import OptimizerRun, record
from llm_influence.order.method import Floats
from llm_influence.order.pair import Pair
from llm_influence.order.places import Unit
from llm_influence.order.sample_order import SampleOrder
from llm_influence.order.search import shuffled
from tests.llm_influence.order.recorded import batches, plain_gpt2, recorded

N_ORDERS = 4


def tiny(rate: float, optimizer: str = "sgd", **options: Any) -> OptimizerRun:
    model = plain_gpt2(n_embd=8, n_layer=1, initializer_range=0.5).double()
    return recorded(optimizer, rate=rate, model=model, **options)


def effects(run: OptimizerRun) -> tuple[Floats, Floats]:
    """Predicted and real effects of some orders on two queries."""
    queries = run.queries(batches(2, seed=5))
    orders = shuffled(run.places, N_ORDERS, 1)
    asked = Pair().build(run, 0, False).ask(queries)
    predicted = asked.losses(orders) - asked.losses(run.places.recorded[None])
    ends = [run.train(Reordered(order)) for order in orders]
    real = np.stack([run.losses_at(end, queries) for end in ends]) - run.losses(queries)
    return predicted, real


def power(rates: list[float], sizes: list[float]) -> float:
    return float(np.polyfit(np.log(rates), np.log(sizes), 1)[0])


@pytest.mark.parametrize(
    ("options", "unit"),
    [
        ({}, "batch"), ({}, "sample"), ({"max_grad_norm": 0.5}, "batch"),
        ({"accumulate": 2}, "batch"), ({"accumulate": 2}, "sample"), ({"epochs": 2}, "batch"),
    ],
    ids=str,
)  # fmt: skip
def test_gradient_descent_is_followed_to_third_order(options: dict[str, Any], unit: Unit) -> None:
    rates, errors, sizes = [1e-3, 2e-3, 4e-3], [], []
    for rate in rates:
        predicted, real = effects(tiny(rate, **options).by(unit))
        errors.append(float(np.linalg.norm(predicted - real)))
        sizes.append(float(np.linalg.norm(real)))
    assert power(rates, sizes) == pytest.approx(2, abs=0.1)
    assert power(rates, errors) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("optimizer", ["nesterov", "damped"])
def test_momentum_makes_first_order_effects_and_leaves_second_order_errors(optimizer: str) -> None:
    rates, errors = [1e-4, 2e-4, 4e-4], []
    for rate in rates:
        predicted, real = effects(tiny(rate, optimizer))
        errors.append(float(np.linalg.norm(predicted - real)))
        assert errors[-1] < 0.01 * np.linalg.norm(real)
    assert power(rates, errors) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_whose_scale_hardly_changes(make: Any) -> None:
    """A large eps freezes the scale: what is left are averages of gradients, carried ones too."""
    model = plain_gpt2(n_embd=8, n_layer=1, initializer_range=0.5).double()
    halves = [[p for p in model.parameters() if (p.dim() > 1) == flat] for flat in (True, False)]
    groups = [{"params": halves[0]}, {"params": halves[1], "lr": 5e-3, "weight_decay": 0.1}]
    optimizer = make(groups, 1e-2, eps=10.0)
    for batch in batches(6, seed=3):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    recording = record(model, optimizer)
    for batch in batches(5):
        recording.step(batch)
    predicted, real = effects(recording.run)
    assert np.linalg.norm(predicted - real) < 0.02 * np.linalg.norm(real)


def test_many_orders_are_answered_as_one() -> None:
    run = tiny(1e-2, "adam").by("sample")
    asked = Pair().build(run, 0, False).ask(run.queries(batches(2, seed=5)))
    orders = shuffled(run.places, 5, 0)
    one_by_one = np.concatenate([asked.losses(order[None]) for order in orders])
    assert np.allclose(asked.losses(orders), one_by_one, rtol=1e-12)


def test_the_best_order_is_the_least_of_all() -> None:
    run = tiny(1e-3, n_batches=4)
    queries = batches(2, seed=5)
    answers = SampleOrder(Pair(), calibrate=0).fit(run)
    best = answers.predict(answers.best(queries, progress=False), queries).mean()
    every = [answers.predict(Reordered(o), queries).mean() for o in permutations(range(4))]
    assert best == pytest.approx(min(every), rel=1e-9)


def test_groups_of_other_momentum_are_refused() -> None:
    model = plain_gpt2(n_embd=8, n_layer=1)
    first, *rest = model.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "momentum": 0.5}, {"params": rest}], 1e-2)
    recording = record(model, optimizer)
    for batch in batches(2):
        recording.step(batch)
    with pytest.raises(NotYetSupportedError, match="momentum"):
        Pair().build(recording.run, 0, False)


def scheduled(*schedules: Callable[[int], float], rates: tuple[float, float]) -> OptimizerRun:
    """A run whose two groups, weights and all else, have schedules of their own."""
    model = plain_gpt2(n_embd=8, n_layer=1, initializer_range=0.5).double()
    halves = [[p for p in model.parameters() if (p.dim() > 1) == flat] for flat in (True, False)]
    groups = [{"params": half, "lr": rate} for half, rate in zip(halves, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, list(schedules))
    recording = record(model, optimizer, scheduler=scheduler)
    for batch in batches(5):
        recording.step(batch)
    return recording.run


def falling(step: int) -> float:
    return 0.7**step / 3


def test_groups_with_one_schedule_and_rates_of_their_own() -> None:
    predicted, real = effects(scheduled(falling, falling, rates=(3e-3, 1e-3)))
    assert np.linalg.norm(predicted - real) < 0.02 * np.linalg.norm(real)


def test_groups_with_other_schedules_are_refused() -> None:
    """With one rate for both groups, predictions would have the wrong sign."""
    run = scheduled(lambda s: float(s < 3), lambda s: float(s >= 3), rates=(1e-2, 1e-2))
    with pytest.raises(NotYetSupportedError, match=r"\[0.01, 0.0\] at step 0 and \[0.0, 0.01\]"):
        SampleOrder(Pair(), calibrate=0).fit(run)


def test_without_any_rate_no_order_has_an_effect() -> None:
    predicted, real = effects(scheduled(lambda _: 0.0, lambda _: 0.0, rates=(1e-2, 1e-3)))
    assert not real.any()
    assert not predicted.any()


def test_clipped_steps_of_several_items_are_refused() -> None:
    run = tiny(1e-3, max_grad_norm=0.5)
    with pytest.raises(NotYetSupportedError, match="max_grad_norm"):
        Pair().build(run.by("sample"), 0, False)
    open_ended = tiny(1e-3, max_grad_norm=1e3)
    Pair().build(open_ended.by("sample"), 0, False)
