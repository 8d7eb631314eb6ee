"""Every loss: derivatives against central differences of the value, and of each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tree_influence import losses, losses_catboost, losses_positive, losses_wrapped

N_CLASSES = 3
STEP = 1e-5


def real(rng, n):
    return rng.normal(size=n)


def zero_one(rng, n):
    return rng.integers(0, 2, n).astype(float)


def share(rng, n):
    return rng.random(n)


def shares(rng, n):
    return rng.random((n, 2))


def a_class(rng, n):
    return rng.integers(0, N_CLASSES, n).astype(float)


def positive(rng, n):
    return rng.gamma(2.0, size=n)


ABOVE = losses_wrapped.OnSeenTarget(losses.Logistic(), losses_wrapped.Above(0.3), judged=True)
ON_ROOT = losses_wrapped.OnSeenTarget(
    losses.SquaredError(), losses_wrapped.SignedRoot(), judged=True
)
ROUNDED = losses_wrapped.OnSeenTarget(losses.SquaredError(), losses_wrapped.InFloat32())
IN_FLOAT32 = losses_wrapped.OnSeenTarget(losses.LogCosh(), losses_wrapped.InFloat32())

# name: loss, how its target is drawn, number of outputs
CASES = {
    "squared": (losses.SquaredError(), real, 1),
    "squared, float32 target": (ROUNDED, real, 1),
    "squared, square root": (ON_ROOT, real, 1),
    "squared, gradient steps": (losses_wrapped.UnitHessian(losses.SquaredError()), real, 1),
    "logistic": (losses.Logistic(), zero_one, 1),
    "logistic, slope": (losses.Logistic(1.7), zero_one, 1),
    "logistic, soft labels": (losses.Logistic(), share, 1),
    "logistic, two targets": (losses_wrapped.SeveralTargets(losses.Logistic()), shares, 2),
    "one-vs-all": (losses.OneVsAll(0.8), a_class, N_CLASSES),
    "softmax": (losses.Softmax(), a_class, N_CLASSES),
    "softmax, scaled": (losses.Softmax(2.0), a_class, N_CLASSES),
    "softmax, gradient steps": (losses_wrapped.UnitHessian(losses.Softmax()), a_class, N_CLASSES),
    "focal": (losses_catboost.Focal(0.3, 2.0), zero_one, 1),
    "focal, other gamma": (losses_catboost.Focal(0.6, 0.7), zero_one, 1),
    "exponential": (losses.Exponential(), zero_one, 1),
    "huber": (losses.Huber(0.7), real, 1),
    "huber, gradient steps": (losses_wrapped.UnitHessian(losses.Huber(0.7)), real, 1),
    "pseudo-huber": (losses.PseudoHuber(0.6), real, 1),
    "fair": (losses.Fair(0.8), real, 1),
    "log-cosh": (losses.LogCosh(), real, 1),
    "expectile": (losses.Expectile(0.2), real, 1),
    "power": (losses_catboost.PowerError(5.5), real, 1),
    "power, two": (losses_catboost.PowerError(2.0), real, 1),
    "above a border": (ABOVE, real, 1),
    "in float32": (IN_FLOAT32, real, 1),
    "poisson": (losses_positive.Poisson(), positive, 1),
    "poisson, inflated": (losses_positive.Poisson(0.7), positive, 1),
    "gamma": (losses_positive.Gamma(), positive, 1),
    "tweedie": (losses_positive.Tweedie(1.3), positive, 1),
    "squared log": (losses_positive.SquaredLogError(), positive, 1),
}
# where |F - y| is this, the curvature jumps
KINKS = {"huber": 0.7, "huber, gradient steps": 0.7, "expectile": 0.0}
OWN_HESSIAN = {"softmax, scaled": 2.0, "poisson, inflated": np.exp(0.7)}


def draw(case, seed, n=20):
    loss, target, n_outputs = CASES[case]
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(n, n_outputs))
    if case == "squared log":
        raw = np.abs(raw)
    return loss, target(rng, n), raw


def slope_of(function, raw, k):
    """Central difference of a function of the raw scores in output k."""
    step = np.zeros(raw.shape[1])
    step[k] = STEP
    return (function(raw + step) - function(raw - step)) / (2 * STEP)


@pytest.mark.parametrize("case", CASES)
@given(seed=st.integers(0, 1000))
def test_gradient_is_the_slope_of_the_value(case, seed):
    loss, target, raw = draw(case, seed)
    found = loss.derivatives(target, raw).gradient
    for k in range(raw.shape[1]):
        expected = slope_of(lambda at: loss.value(target, at), raw, k)
        np.testing.assert_allclose(found[:, k], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@given(seed=st.integers(0, 1000))
def test_curvature_is_the_slope_of_the_gradient(case, seed):
    loss, target, raw = draw(case, seed)
    at = loss.derivatives(target, raw)
    smooth = np.full(len(raw), True)
    if case in KINKS:
        smooth = np.abs(np.abs(raw[:, 0] - target) - KINKS[case]) > 10 * STEP
    for k in range(raw.shape[1]):
        for m in range(raw.shape[1]):
            expected = slope_of(lambda x, m=m: loss.derivatives(target, x).gradient[:, m], raw, k)
            if m == k:
                found = at.curvature[:, k]
            elif at.coupling is None:
                found = np.zeros(len(raw))
            else:
                found = -at.coupling[:, m] * at.coupling[:, k]
            np.testing.assert_allclose(found[smooth], expected[smooth], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@given(seed=st.integers(0, 1000))
def test_hessian_slope_is_the_slope_of_the_librarys_hessian(case, seed):
    loss, target, raw = draw(case, seed)
    at = loss.derivatives(target, raw)
    for k in range(raw.shape[1]):
        expected = slope_of(lambda x, k=k: loss.derivatives(target, x).hessian[:, k], raw, k)
        found = at.hessian_slope[:, k]
        if at.coupling is not None:
            found = found * at.curvature[:, k]
        if case in KINKS:
            found, expected = found[expected == 0], expected[expected == 0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_librarys_hessian_is_the_curvature_but_for_what_is_said(case):
    loss, target, raw = draw(case, 0)
    at = loss.derivatives(target, raw)
    expected = OWN_HESSIAN.get(case, 1.0) * at.curvature
    if "gradient steps" in case:
        expected = np.ones_like(raw)
    np.testing.assert_allclose(at.hessian, expected)


def test_several_targets_are_summed():
    rng = np.random.default_rng(0)
    raw, target = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    loss = losses.SquaredError()
    np.testing.assert_allclose(loss.value(target, raw), 0.5 * ((raw - target) ** 2).sum(axis=1))
    np.testing.assert_allclose(loss.derivatives(target, raw).gradient, raw - target)
    found = losses.AbsoluteError().value(target, raw)
    np.testing.assert_allclose(found, np.abs(raw - target).sum(axis=1))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantiles_minimise_the_quantile_loss(quantile):
    y = np.random.default_rng(0).normal(size=1001)
    candidates = np.linspace(-2, 2, 401)
    totals = [losses.Quantile(quantile).value(y, np.full((1001, 1), c)).sum() for c in candidates]
    assert abs(candidates[np.argmin(totals)] - np.quantile(y, quantile)) < 0.02


def test_losses_that_only_judge():
    y = np.array([0.0, 2.0])
    np.testing.assert_allclose(losses.AbsoluteError().value(y, np.ones((2, 1))), [1, 1])
    p = np.array([[0.25, 0.75], [1.0, 0.0]])
    found = losses.LogProbability().value(np.array([1.0, 1.0]), p)
    np.testing.assert_allclose(found, [-np.log(0.75), -np.log(np.finfo(float).eps)])
    found = losses.RelativeError().value(np.array([0.5, -4.0]), np.ones((2, 1)))
    np.testing.assert_allclose(found, [0.5, 1.25])
    raw = np.array([[1.0, 0.0], [1.0, np.log(2)]])
    found = losses_catboost.NormalLikelihood().value(y, raw)
    np.testing.assert_allclose(found, [0.5, np.log(2) + 1 / 8])
    both = losses.Quantiles((0.2, 0.5)).value(y, raw)
    each = [losses.Quantile(alpha).value(y, raw[:, [k]]) for k, alpha in ((0, 0.2), (1, 0.5))]
    np.testing.assert_allclose(both, np.sum(each, axis=0))
    found = losses_catboost.LogLinQuantile(0.2).value(y, raw)
    np.testing.assert_allclose(found, losses.Quantile(0.2).value(y, np.exp(raw[:, [0]])))
    for loss in (losses.AbsoluteError(), losses.Quantile(), losses.LogProbability()):
        assert not isinstance(loss, losses.TrainingLoss)
