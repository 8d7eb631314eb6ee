"""Orders replayed by Taylor expansions around the recorded path."""

from typing import Any

import numpy as np
import pytest
import torch

from influence.change import Reordered
from influence.errors import InputError, TrainingDataError
from llm_influence import OptimizerRun, record
from llm_influence.order import taylor
from llm_influence.order.sample_order import SampleOrder
from llm_influence.order.taylor import Taylor
from tests.llm_influence.order.recorded import batches, plain_gpt2, recorded
from tests.reference.replayed_order import replayed

RATES = [2.5e-4, 5e-4, 1e-3, 2e-3]
ORDER = np.array([3, 0, 4, 2, 1])


def smooth(rate: float, n_batches: int = 5, **options: Any) -> OptimizerRun:
    """A run in float64 of Adam with a large eps, whose step is a smooth function."""
    model = plain_gpt2(n_embd=8, n_layer=1, initializer_range=0.5).double()
    recording = record(model, torch.optim.Adam(model.parameters(), rate, eps=0.03), **options)
    for batch in batches(n_batches):
        recording.step(batch)
    return recording.run


def ends(method: Taylor, run: OptimizerRun, *orders: Any, seed: int = 0) -> torch.Tensor:
    return torch.stack(method.build(run, seed, False).ends(np.stack(orders)))


def slope_of_errors(method: Taylor, rates: list[float]) -> float:
    errors = []
    for rate in rates:
        run = smooth(rate)
        errors.append(float((ends(method, run, ORDER)[0] - run.train(Reordered(ORDER))).norm()))
    return float(np.polyfit(np.log(rates), np.log(errors), 1)[0])


@pytest.mark.parametrize("order", [0, 1, 2])
def test_with_exact_moments_each_order_gains_a_power_of_the_rate(order: Any) -> None:
    found = slope_of_errors(Taylor(order, "exact", "products"), RATES)
    assert found == pytest.approx(order + 2, abs=0.05), (
        "the derivative of this order is wrong, or the moments are not carried exactly"
    )


def test_with_reference_moments_no_order_helps() -> None:
    found = slope_of_errors(Taylor(1, "reference", "products"), RATES)
    assert found == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("moments", ["exact", "reference"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_stored_differences_are_those_of_the_formula(order: Any, moments: Any) -> None:
    run = smooth(5e-3)
    found = ends(Taylor(order, moments, "differences"), run, ORDER)[0]
    derivatives = run.derivatives()

    def gradient(weights: Any, item: int) -> Any:
        return derivatives.gradient(torch.from_numpy(weights), run.batch(item)).numpy()

    wanted = replayed(
        gradient, run.begin()[0].numpy(), list(run.order), ORDER.tolist(), 5e-3, 0.03, order,
        moments == "exact",
    )  # fmt: skip
    # Differences of gradients that hardly differ hold few digits.
    assert np.median(np.abs(found.numpy() - wanted)) < 1e-9
    assert np.isfinite(wanted).all()


@pytest.mark.parametrize(
    "method",
    [
        Taylor(0, "reference"), Taylor(0, "exact"), Taylor(2, "reference", "differences"),
        Taylor(2, "exact", "differences"), Taylor(1, "reference", "products"),
        Taylor(2, "exact", "products"),
    ],
    ids=str,
)  # fmt: skip
def test_the_recorded_order_has_no_effect(method: Taylor) -> None:
    run = smooth(5e-3)
    assert torch.allclose(ends(method, run, run.places.recorded)[0], run.final, atol=1e-12)
    answers = SampleOrder(method, calibrate=0).fit(run)
    assert answers.predict(Reordered(run.places.recorded), batches(1, seed=5)) == 0


def test_swapping_a_batch_with_its_equal_has_no_effect() -> None:
    first, second = batches(2)
    run = recorded(taken=[first, second, {k: v.clone() for k, v in first.items()}])
    assert run.places.recorded.tolist() == [0, 1, 0]
    swapped = run.places.recorded[[2, 1, 0]]
    answers = SampleOrder(Taylor(1, "exact", "products"), calibrate=0).fit(run)
    assert answers.predict(Reordered(swapped), batches(1, seed=5)) == 0


@pytest.mark.parametrize("unit", ["batch", "sample"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_of_several_items(unit: Any, accumulate: int) -> None:
    run = smooth(1e-3, n_batches=4, accumulate=accumulate, max_grad_norm=0.5).by(unit)
    orders = np.random.default_rng(0).permutation(run.places.recorded)
    real = run.train(Reordered(orders))
    estimated = ends(Taylor(2, "exact", "products"), run, orders)[0]
    assert (estimated - real).norm() < 1e-3 * (real - run.final).norm()


@pytest.mark.parametrize("order", [0, 1, 2])
def test_terms_kept_whole_are_the_recomputed_ones(order: Any) -> None:
    run = smooth(5e-3)
    fresh, kept = (ends(Taylor(order, keep=keep), run, ORDER) for keep in (None, "all"))
    assert torch.allclose(fresh, kept, atol=1e-12)


def test_projected_terms_are_right_on_average_and_as_noisy_as_said() -> None:
    """Plain gradient descent of order 0 is linear in the terms, so that the noise averages out."""
    model = plain_gpt2(n_embd=8, n_layer=1).double()
    run = recorded("sgd", n_batches=2, model=model)
    whole = ends(Taylor(0, keep="all"), run, [1, 0])[0]
    drawn = torch.stack([ends(Taylor(0, keep=50), run, [1, 0], seed=seed)[0] for seed in range(20)])
    noise = drawn - whole
    travelled = float((run.begin()[0] - whole).norm())
    size = float(noise.norm()) / (20 * whole.numel() / 50) ** 0.5
    assert noise.mean(dim=0).norm() < 1.2 * noise.norm() / 20, "the projection is biased"
    assert size == pytest.approx(travelled, rel=0.1), "not noise of variance |g|^2 / keep"


def test_the_best_order_is_an_order_of_small_predicted_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(taylor, "TRIED", 48)
    run = smooth(5e-3)
    answers = SampleOrder(Taylor(0, "exact", keep="all"), calibrate=0).fit(run)
    best = answers.best(batches(1, seed=5))
    assert sorted(best.order.tolist()) == sorted(run.order)
    assert answers.predict(best, batches(1, seed=5)) < 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": 3}, {"order": True}, {"moments": "own"}, {"curvature": "none"}, {"keep": 0},
        {"keep": "some"}, {"curvature": "products", "keep": 10},
    ],
)  # fmt: skip
def test_settings_that_do_not_exist_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Taylor(**wrong)


def test_an_expansion_that_diverges_is_refused() -> None:
    run = recorded("sgd", rate=1.0, n_batches=8)
    answers = SampleOrder(Taylor(2, "exact", "differences"), calibrate=0).fit(run)
    with pytest.raises(TrainingDataError, match="diverged"):
        answers.predict(Reordered(run.places.recorded[::-1].copy()), batches(1, seed=5))
