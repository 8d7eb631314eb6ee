"""`Galerkin`: with all directions its replay is the linear one, and exact where that is."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from influence.change import Reordered
from influence.errors import InputError, UnsupportedModelError
from llm_influence import OptimizerRun, SampleOrder, record
from llm_influence.order import basis as bases
from llm_influence.order import galerkin
from llm_influence.order.basis import Basis
from llm_influence.order.curved import items_curved, widened
from llm_influence.order.galerkin import Galerkin
from llm_influence.order.mean_path import virtual_path
from llm_influence.order.search import balanced, epochs_of, shuffled
from tests.llm_influence.order.tiny import Batch, adapted, pairs, squared_errors
from tests.reference import around_mean, relaxed_order

QUERIES = pairs(2, seed=5)
ADAM, ADAMW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD
BETAS = {"betas": (0.8, 0.9)}
COUNTED = {"accumulate": 2}
Step = Callable[..., Any]
CASES: dict[str, tuple[dict[str, Any], Step, float]] = {
    "adam": ({"make": ADAM, **BETAS}, relaxed_order.adam(0.8, 0.9, 1e-8, 0.0, False), 0.0),
    "adam with decay": (
        {"make": ADAM, **BETAS, "weight_decay": 0.3},
        relaxed_order.adam(0.8, 0.9, 1e-8, 0.0, False),
        0.3,
    ),
    "adamw": (
        {"make": ADAMW, **BETAS, "weight_decay": 0.3},
        relaxed_order.adam(0.8, 0.9, 1e-8, 0.3, True),
        0.0,
    ),
    "momentum": ({"make": SGD, "momentum": 0.9}, relaxed_order.momentum(0.9), 0.0),
}
RECORDED: dict[str, dict[str, Any]] = {
    "fresh": {},
    "carried": {"before": 3, "decaying": True},
    "clipped": {"record_options": {"max_grad_norm": 1.5}},
    "accumulated": {"record_options": COUNTED},
    "accumulated and clipped": {"record_options": {**COUNTED, "max_grad_norm": 1.0}},
    "two epochs": {"order": [0, 1, 2, 3, 2, 3, 1, 0]},
}


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> Galerkin:
    """All directions, gradients and curvature at all steps, and items to first order."""
    monkeypatch.setattr(bases, "ENOUGH", 2.0)
    monkeypatch.setattr(galerkin, "TABLES", 100)
    return Galerkin(columns=100, knots=100, paths=10, contexts=0, spread=0.0)


def straight(
    order: list[int] | None = None,
    sizes: int | list[int] = 3,
    record_options: dict[str, Any] | None = None,
    **options: Any,
) -> OptimizerRun:
    """A run of a linear model, whose losses are quadratic in its weights."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    recording = record(
        model, SGD(model.parameters(), 0.05, **options), squared_errors, **(record_options or {})
    )
    batches = pairs(4, sizes)
    for i in order or range(4):
        recording.step(batches[i])
    return recording.run


def losses(run: OptimizerRun, method: Galerkin, orders: Any) -> Any:
    """Predicted losses of the queries, less those of the first order."""
    found = method.build(run, 0, False).ask(run.queries(QUERIES)).losses(orders)
    return found - found[0]


@pytest.mark.parametrize(
    ("unit", "options"),
    [
        ("batch", {}),
        ("batch", {"momentum": 0.9}),
        ("batch", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("batch", {"momentum": 0.9, "dampening": 0.5}),
        ("batch", {"momentum": 0.9, "record_options": COUNTED}),
        ("batch", {"momentum": 0.9, "order": [0, 1, 2, 3, 2, 3, 1, 0]}),
        ("sample", {"momentum": 0.9, "sizes": [1, 3, 2, 3]}),
    ],
)
def test_losses_of_quadratic_models_are_exact(
    unit: Any, options: dict[str, Any], everything: Galerkin
) -> None:
    run = straight(**options).by(unit)
    orders = np.concatenate([run.places.recorded[None], shuffled(run.places, 8, seed=3)])
    queries = run.queries(QUERIES)
    real = np.stack([run.losses_at(run.train(Reordered(order)), queries) for order in orders])
    assert real.std(axis=0).min() > 1e-3
    found = losses(run, everything, orders)
    np.testing.assert_allclose(found, real - real[0], rtol=1e-9, atol=1e-9)


def mean_losses(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mean loss of each batch of `net` at any weights; batches are stacked along the first axis."""
    first, bias, second, last = weights.split([12, 4, 8, 2])
    hidden = torch.tanh(x @ first.view(4, 3).T + bias)
    return ((hidden @ second.view(2, 4).T + last - y) ** 2).sum(dim=2).mean(dim=1)


def linear_replay(
    run: OptimizerRun, items: list[Batch], orders: Any, step: Step, decay: float
) -> Tensor:
    """The oracle's losses of the queries, less those of the first order."""

    def losses_of(batches: list[Batch]) -> Callable[[Tensor], Tensor]:
        x, y = (torch.stack(part) for part in zip(*batches, strict=True))
        return lambda weights: mean_losses(weights, x, y)

    gradients: Any = torch.func.jacrev(losses_of(items))
    places, (weights, moments) = run.places, run.begin()
    shares = [places.shares[places.of_step(t)].tolist() for t in range(run.n_steps)]
    taken = {int(one["step"]) for one in run.state.values() if "step" in one} or {0}
    found = [
        around_mean.replayed(
            order, losses_of(QUERIES), weights, moments, shares,
            [rate[0] for rate in run.recipe.rates], min(taken), gradients, step,
            torch.from_numpy(places.counts / places.counts.sum()), decay,
            run.recipe.max_grad_norm,
        )
        for order in orders
    ]  # fmt: skip
    return torch.stack(found) - found[0]


@pytest.mark.parametrize(
    ("optimizer", "recorded"),
    [
        *product(CASES, ["fresh", "carried"]),
        *product(["adam with decay", "momentum"], list(RECORDED)[2:]),
    ],
)
def test_with_all_directions_it_is_the_linear_replay(
    optimizer: str, recorded: str, everything: Galerkin
) -> None:
    options, step, decay = CASES[optimizer]
    run = adapted(**options, **RECORDED[recorded])
    orders = np.concatenate([run.places.recorded[None], shuffled(run.places, 3, seed=3)])
    found = torch.from_numpy(losses(run, everything, orders))
    wanted = linear_replay(run, pairs(4), orders, step, decay)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_with_all_directions_it_is_the_linear_replay_of_samples(everything: Galerkin) -> None:
    options, step, decay = CASES["adam"]
    batches = pairs(3, [1, 2, 2])
    run = adapted(**options, batches=batches).by("sample")
    samples = [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(x))]
    orders = np.concatenate([run.places.recorded[None], shuffled(run.places, 3, seed=3)])
    found = torch.from_numpy(losses(run, everything, orders))
    wanted = linear_replay(run, samples, orders, step, decay)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("most", [None, 1.5])
def test_curvature_of_columns_is_added_to_what_is_known(most: float | None) -> None:
    run = adapted(before=3, record_options={"max_grad_norm": most})
    path = virtual_path(run, [0, 1, 2, 3], False)
    torch.manual_seed(0)
    columns, _ = torch.linalg.qr(torch.randn(run.flat.n, 6).double())
    scale = torch.rand(run.flat.n).double()
    first, added, whole = (Basis(scale, part) for part in (*columns.split([4, 2], 1), columns))
    wanted = items_curved(run, path, [1, 3], whole, False)
    held = items_curved(run, path, [1, 3], first, False)
    torch.testing.assert_close(widened(held, run, path, [1, 3], first, added, False), wanted)
    symmetric = torch.allclose(wanted, wanted.mT, atol=1e-9)
    assert symmetric == (most is None)


def test_the_average_path_needs_few_items() -> None:
    run = adapted(SGD, pairs(8), momentum=0.9)
    ends = [
        virtual_path(run, [0, 4], False, drawn).states[-1].weights
        for drawn in (None, balanced(run.places, 8, seed=0), balanced(run.places, 2, seed=0))
    ]
    torch.testing.assert_close(ends[1], ends[0])
    moved = (ends[0] - run.begin()[0]).norm()
    assert 0 < (ends[2] - ends[0]).norm() < 0.05 * moved


@pytest.mark.parametrize(("optimizer", "before"), [(ADAM, 20), (SGD, 0)])
def test_it_ranks_really_retrained_orders(optimizer: Any, before: int) -> None:
    run = adapted(optimizer, pairs(8, 4), before=before, rate=2e-3 if optimizer is ADAM else 2e-2)
    order = SampleOrder(Galerkin(), calibrate=20).fit(run, progress=False)
    calibration = order.ask(QUERIES).calibration
    assert calibration is not None
    assert calibration.spearman > 0.95 and 0.8 < calibration.slope < 1.2


def test_adjoints_of_the_queries_make_up_for_few_columns() -> None:
    run = adapted(batches=pairs(8, 4), before=20, rate=2e-3)
    found = []
    for adjoints in (0, 8):
        method = Galerkin(columns=2, adjoints=adjoints)
        order = SampleOrder(method, calibrate=20).fit(run, progress=False)
        calibration = order.ask(QUERIES).calibration
        assert calibration is not None
        found.append(calibration.spearman)
    assert found[1] > 0.9 > found[0]


def test_the_best_order_is_better_than_random_ones_and_keeps_epochs() -> None:
    run = adapted(batches=pairs(5), order=[0, 1, 2, 3, 4, 1, 0, 3, 4, 2])
    order = SampleOrder(Galerkin(columns=8), calibrate=0).fit(run, progress=False)
    best = order.best(QUERIES, progress=False)
    assert all(sorted(best.order[epoch]) == [0, 1, 2, 3, 4] for epoch in epochs_of(run.places))
    some = [Reordered(changed) for changed in shuffled(run.places, 500, seed=2)]
    effects = order.ask(QUERIES).effects([best, *some]).mean(axis=1)
    assert effects[0] <= effects.min()


def test_answers_follow_the_seed() -> None:
    run = adapted(batches=pairs(8))
    orders = shuffled(run.places, 5, seed=1)

    def found(seed: int) -> Any:
        method = Galerkin(columns=4, paths=1)
        return method.build(run, seed, False).ask(run.queries(QUERIES)).losses(orders)

    assert np.array_equal(found(0), found(0)) and not np.array_equal(found(0), found(1))


def test_groups_with_other_betas_are_answered_with_contexts_alone() -> None:
    run = adapted(batches=pairs(8, 4), before=20, groups=[{}, {"betas": (0.9, 0.8)}])
    order = SampleOrder(Galerkin(), calibrate=20).fit(run, progress=False)
    calibration = order.ask(QUERIES).calibration
    assert calibration is not None and calibration.spearman > 0.9
    with pytest.raises(UnsupportedModelError, match="same betas"):
        Galerkin(contexts=0).build(run, 0, False)


def test_groups_with_other_rates_and_decays_are_answered(everything: Galerkin) -> None:
    run = adapted(ADAMW, pairs(8, 4), before=20, groups=[{"lr": 3e-3, "weight_decay": 0.0}, {}])
    order = SampleOrder(everything, calibrate=20).fit(run, progress=False)
    calibration = order.ask(QUERIES).calibration
    assert calibration is not None and calibration.spearman > 0.9


@pytest.mark.parametrize(
    "settings",
    [{"columns": 0}, {"adjoints": -1}, {"knots": 0}, {"paths": 1.5}, {"contexts": -1}],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Galerkin(**settings)
