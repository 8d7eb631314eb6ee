"""`MeanField`: its positions are derivatives of the relaxed training, and rank real orders."""

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from influence.change import Reordered
from influence.errors import InputError
from llm_influence import OptimizerRun, SampleOrder, record
from llm_influence.order.mean_field import MeanField
from llm_influence.order.mean_path import real_path
from llm_influence.order.places import places
from llm_influence.order.search import balanced, shuffled
from tests.llm_influence.order.recorded import plain_gpt2
from tests.llm_influence.order.tiny import Batch, adapted, pairs
from tests.reference import relaxed_order

DERIVATIVE: dict[str, Any] = {"orders": 0, "knots": None, "smoothing": 0.0, "contexts": 0}
EXACT = MeanField(**DERIVATIVE, curvature=None)
QUERIES = pairs(2, seed=5)
ADAM, ADAMW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD
BETAS = {"betas": (0.8, 0.9)}

Step = Callable[..., Any]
CASES: dict[str, tuple[dict[str, Any], Step]] = {
    "adam": ({"make": ADAM, **BETAS}, relaxed_order.adam(0.8, 0.9, 1e-8, 0.0, False)),
    "adam with decay": (
        {"make": ADAM, **BETAS, "weight_decay": 0.3},
        relaxed_order.adam(0.8, 0.9, 1e-8, 0.3, False),
    ),
    "adamw": (
        {"make": ADAMW, **BETAS, "weight_decay": 0.3},
        relaxed_order.adam(0.8, 0.9, 1e-8, 0.3, True),
    ),
    "momentum": ({"make": SGD, "momentum": 0.9}, relaxed_order.momentum(0.9)),
}
RECORDED: dict[str, dict[str, Any]] = {
    "fresh": {},
    "carried": {"before": 3, "decaying": True},
    "clipped": {"record_options": {"max_grad_norm": 1.5}},
    "accumulated": {"record_options": {"accumulate": 2}},
    "accumulated and clipped": {"record_options": {"accumulate": 2, "max_grad_norm": 1.0}},
    "two epochs": {"order": [0, 1, 2, 3, 2, 3, 1, 0]},
}


def mean_losses(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mean loss of each batch of `net` at any weights; batches are stacked along the first axis."""
    first, bias, second, last = weights.split([12, 4, 8, 2])
    hidden = torch.tanh(x @ first.view(4, 3).T + bias)
    return ((hidden @ second.view(2, 4).T + last - y) ** 2).sum(dim=2).mean(dim=1)


def differences(run: OptimizerRun, items: list[Batch], step: Step) -> Tensor:
    """The oracle's positions of a run."""

    def losses_of(batches: list[Batch]) -> Callable[[Tensor], Tensor]:
        x, y = (torch.stack(part) for part in zip(*batches, strict=True))
        return lambda weights: mean_losses(weights, x, y)

    gradients: Any = torch.func.jacrev(losses_of(items))
    losses = losses_of(QUERIES)
    counts = np.bincount(run.places.recorded) / run.places.n_places
    alpha = torch.from_numpy(np.tile(counts, (run.places.n_places, 1)))
    shares = [run.places.shares[run.places.of_step(t)].tolist() for t in range(run.n_steps)]
    weights, moments = run.begin()
    taken = {int(one["step"]) for one in run.state.values() if "step" in one} or {0}
    return relaxed_order.positions(
        alpha, losses, weights, moments, shares, [r[0] for r in run.recipe.rates], taken.pop(),
        gradients, step, most=run.recipe.max_grad_norm,
    )  # fmt: skip


def positions(run: OptimizerRun, method: MeanField) -> Tensor:
    built = method.build(run, 0, False)
    return torch.from_numpy(built.ask(run.queries(QUERIES)).positions())


@pytest.mark.parametrize(
    ("optimizer", "recorded"),
    [*product(CASES, ["fresh", "carried"]), *product(["adam", "momentum"], list(RECORDED)[2:])],
)
def test_positions_are_derivatives_of_the_relaxed_training(optimizer: str, recorded: str) -> None:
    options, step = CASES[optimizer]
    run = adapted(**options, **RECORDED[recorded])
    found, wanted = positions(run, EXACT), differences(run, pairs(4), step)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_positions_of_samples_are_derivatives_of_the_relaxed_training() -> None:
    options, step = CASES["adam"]
    batches = pairs(3, [1, 2, 2])
    run = adapted(**options, batches=batches).by("sample")
    samples = [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(x))]
    found, wanted = positions(run, EXACT), differences(run, samples, step)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("clipped", [None, 1.5])
def test_as_many_orders_as_items_have_the_curvature_of_all(clipped: float | None) -> None:
    run = adapted(before=3, record_options={"max_grad_norm": clipped})
    drawn = MeanField(**DERIVATIVE, curvature=4)
    torch.testing.assert_close(positions(run, drawn), positions(run, EXACT))


@pytest.mark.parametrize("clipped", [None, 1.0])
@pytest.mark.parametrize("unit", ["batch", "sample"])
def test_random_steps_of_several_items_have_about_the_curvature_of_all(
    unit: Any, clipped: float | None
) -> None:
    record_options = {"accumulate": 2 if unit == "batch" else 1, "max_grad_norm": clipped}
    run = adapted(batches=pairs(10, 3), before=3, record_options=record_options).by(unit)
    drawn = MeanField(**DERIVATIVE, curvature=10)
    found, wanted = positions(run, drawn), positions(run, EXACT)
    assert (found - wanted).norm() < 0.1 * wanted.norm()


def test_knots_at_all_steps_are_the_whole_table() -> None:
    run = adapted(before=3)
    every = MeanField(orders=2, knots=run.n_steps)
    assert torch.equal(positions(run, every), positions(run, MeanField(orders=2, knots=None)))
    few = positions(run, MeanField(orders=2, knots=2))
    assert not torch.equal(few, positions(run, every))
    assert torch.isfinite(positions(run, MeanField(orders=2, knots=1))).all()


def test_the_mean_path_is_the_mean_of_real_trainings() -> None:
    run = adapted(before=2, record_options={"accumulate": 2, "max_grad_norm": 1.0})
    path = real_path(run, 3, [0], seed=4, progress=False)
    orders = balanced(run.places, 3, seed=4)
    real = [torch.stack(list(run.path(Reordered(order)))) for order in orders]
    found = torch.stack([state.weights for state in path.states])
    torch.testing.assert_close(found, torch.stack(real).mean(dim=0))


def test_balanced_orders_take_every_item_at_every_place() -> None:
    of = places([np.array([i]) for i in [0, 1, 2, 3, 4, 2, 1, 0, 4, 3]], 1, 5)
    orders = balanced(of, 5, seed=0)
    assert (np.sort(orders, axis=0) == np.arange(5)[:, None]).all()
    assert (np.sort(orders[:, :5], axis=1) == np.arange(5)).all()
    few = balanced(of, 2, seed=0)
    assert (np.sort(few[:, 5:], axis=1) == np.arange(5)).all() and (few[0] != few[1]).any()


def test_positions_and_the_best_order_agree_with_predictions() -> None:
    run = adapted(batches=pairs(4), order=[0, 1, 2, 3, 1, 0, 3, 2])
    order = SampleOrder(calibrate=0).fit(run, progress=False)
    table = order.positions(QUERIES)
    assert table.shape == (2, 8, 4)
    places = np.arange(8)
    for changed in shuffled(run.places, 3, seed=1):
        wanted = table[:, places, changed].sum(axis=1)
        np.testing.assert_allclose(order.predict(Reordered(changed), QUERIES), wanted, atol=1e-12)
    best = order.best(QUERIES, progress=False)
    some = [Reordered(changed) for changed in shuffled(run.places, 200, seed=2)]
    effects = order.ask(QUERIES).effects([best, *some]).mean(axis=1)
    assert effects.argmin() == 0


def test_it_ranks_really_retrained_orders() -> None:
    run = adapted(batches=pairs(8, 4), before=20, rate=1e-3)
    order = SampleOrder(calibrate=20).fit(run, progress=False)
    calibration = order.ask(QUERIES).calibration
    assert calibration is not None
    assert calibration.spearman > 0.95 and 0.8 < calibration.slope < 1.2


def test_the_trainings_of_the_path_calibrate_too() -> None:
    run = adapted(batches=pairs(8, 4), rate=1e-2)
    order = SampleOrder(calibrate=3, seed=4).fit(run, progress=False)
    calibration, queries = order.ask(QUERIES).calibration, run.queries(QUERIES)
    orders = np.concatenate([shuffled(run.places, 3, 4), balanced(run.places, 16, 4)])
    distinct = [np.array(one) for one in {tuple(one): None for one in orders.tolist()}]
    changes = [Reordered(one) for one in (run.places.recorded, *distinct)]
    real = np.stack([run.losses_at(run.train(change), queries) for change in changes])
    told = order.ask(QUERIES).effects(changes)
    ranks: list[Any] = [spearmanr(told[:, j], real[:, j]) for j in range(2)]
    assert calibration is not None and calibration.n_orders == len(distinct) < 19
    assert calibration.spearman == pytest.approx(np.mean([one.statistic for one in ranks]))


@pytest.mark.parametrize(
    "settings",
    [{"orders": -1}, {"knots": 0}, {"curvature": 0}, {"contexts": -1}, {"orders": 1.5}],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        MeanField(**settings)


@pytest.mark.skipif("INFLUENCE_DATA" not in os.environ, reason="needs INFLUENCE_DATA: Shakespeare")
def test_it_ranks_orders_of_a_language_model() -> None:
    path = Path(os.environ["INFLUENCE_DATA"], "datasets", "text", "tinyshakespeare", "input.txt")
    text = path.read_text(encoding="utf-8")
    number = {letter: i for i, letter in enumerate(sorted(set(text)))}
    ids = torch.tensor([number[letter] for letter in text])
    model = plain_gpt2(n_embd=16, n_layer=1, vocab_size=len(number))
    rng = np.random.default_rng(0)

    def drawn(first: int, n: int) -> dict[str, Tensor]:
        rows = torch.stack([ids[i : i + 25] for i in first + rng.integers(0, 5000, n)])
        return {"input_ids": rows, "labels": rows}

    recording = record(model, torch.optim.Adam(model.parameters(), 3e-4))
    for i in range(8):
        recording.step(drawn(100_000 * i, 4))
    order = SampleOrder(MeanField(orders=4), calibrate=12).fit(recording.run, progress=False)
    calibration = order.ask([drawn(900_000, 16)]).calibration
    assert calibration is not None and calibration.spearman > 0.8
