"""CatBoost's losses: leaf values against equations in plain numpy, and what is refused by name."""

import catboost
import numpy as np
import pytest

from influence.change import Relabelled, Without
from influence.errors import NotYetSupportedError, TrainingDataError, UnsupportedModelError
from tests.tree_influence.adapters.catboost_oracle import sums
from tree_influence import LeafInfluence, trace
from tree_influence.adapters import parse
from tree_influence.retrain import retrainer

RNG = np.random.default_rng(0)
N = 160
X = RNG.normal(size=(N, 3)).round(1)
SIGNAL = X[:, 0] + X[:, 1] * X[:, 2] + RNG.normal(size=N)
WEIGHT = np.asarray(RNG.integers(1, 5, N) * 0.3, dtype=np.float64)
TWO = np.column_stack([SIGNAL, SIGNAL**2])
TARGETS = {
    "real": SIGNAL,
    "count": RNG.poisson(np.exp(SIGNAL / 2)).astype(float),
    "zero or one": (SIGNAL > 0).astype(int),
    "share": 1 / (1 + np.exp(-SIGNAL)),
    "class": np.digitize(SIGNAL, [-0.5, 0.5]),
    "two": TWO,
    "two zeros or ones": (TWO > 0.3).astype(float),
    "two shares": 1 / (1 + np.exp(-TWO)),
}


def sigmoid(F):
    return 1 / (1 + np.exp(-F))


def logistic(y, F):
    p = sigmoid(F)
    return p - y, p * (1 - p)


def one_vs_all(y, F):
    return logistic(np.eye(F.shape[1])[y[:, 0].astype(int)], F)


def softmax(y, F):
    p = np.exp(F) / np.exp(F).sum(axis=1, keepdims=True)
    hessian = p[:, :, None] * np.eye(F.shape[1]) - p[:, :, None] * p[:, None, :]
    return p - np.eye(F.shape[1])[y[:, 0].astype(int)], hessian


def expectile(alpha):
    def derivatives(y, F):
        share = np.where(y > F, 2 * np.float32(alpha), 2 * (1 - np.float32(alpha)))
        return share * (F - y), share

    return derivatives


def tweedie(r):
    def derivatives(y, F):
        a, b = np.exp((1 - r) * F), np.exp((2 - r) * F)
        return b - y * a, (2 - r) * b - (1 - r) * y * a

    return derivatives


def focal(alpha, gamma):
    """By differences: the loss is -a (1 - p)^gamma log p."""

    def loss(y, F):
        p = np.where(y == 1, sigmoid(F), sigmoid(-F))
        return -np.where(y == 1, alpha, 1 - alpha) * (1 - p) ** gamma * np.log(p)

    def derivatives(y, F, h=1e-3):
        at = {k: loss(y, F + k * h) for k in (-2, -1, 0, 1, 2)}
        first = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
        second = (16 * (at[1] + at[-1]) - at[2] - at[-2] - 30 * at[0]) / (12 * h**2)
        return first, second

    return derivatives


# loss: target, gradient and Hessian of each row
SMOOTH = {
    "RMSE": ("real", lambda y, F: (F - y, np.ones_like(F))),
    "Logloss": ("zero or one", logistic),
    "CrossEntropy": ("share", logistic),
    "Focal:focal_alpha=0.3;focal_gamma=2": ("zero or one", focal(0.3, 2.0)),
    "MultiClass": ("class", softmax),
    "MultiClassOneVsAll": ("class", one_vs_all),
    "MultiRMSE": ("two", lambda y, F: (F - y, np.ones_like(F))),
    "MultiRMSEWithMissingValues": ("two", lambda y, F: (F - y, np.ones_like(F))),
    "MultiLogloss": ("two zeros or ones", logistic),
    "MultiCrossEntropy": ("two shares", logistic),
    "Poisson": ("count", lambda y, F: (np.exp(F) - y, np.exp(F))),
    "Tweedie:variance_power=1.3": ("count", tweedie(1.3)),
    "Huber:delta=0.7": (
        "real",
        lambda y, F: (np.clip(F - y, -0.7, 0.7), (abs(F - y) < 0.7).astype(float)),
    ),
    "LogCosh": ("real", lambda y, F: (np.tanh(F - y), 1 / np.cosh(F - y) ** 2)),
    "Expectile:alpha=0.3": ("real", expectile(0.3)),
    "Lq:q=3": ("real", lambda y, F: (3 * abs(F - y) * (F - y), 6 * abs(F - y))),
    "Lq:q=1.5": ("real", lambda y, F: (1.5 * np.sign(F - y) * abs(F - y) ** 0.5, None)),
}


def trained(loss, target, **params):
    settings = {
        "iterations": 4, "depth": 2, "learning_rate": 0.3, "thread_count": 1, "verbose": False,
        "allow_writing_files": False, "loss_function": loss, **params,
    }  # fmt: skip
    return catboost.CatBoost(settings).fit(X, target, sample_weight=WEIGHT)


def stepwise_leaves(model, loss, l2, n_steps, method):
    """Largest difference of recomputed from stored leaf values, over the largest of these."""
    kind, derivatives = SMOOTH[loss]
    y = np.asarray(TARGETS[kind], dtype=np.float32).astype(float).reshape(N, -1)
    w = WEIGHT.astype(np.float32).astype(float)
    stored = model.get_leaf_values().reshape(model.get_tree_leaf_counts().sum(), -1)
    bias = np.broadcast_to(model.get_scale_and_bias()[1], stored.shape[1])
    F = np.tile(bias, (N, 1)).astype(float)
    first = np.cumsum([0, *model.get_tree_leaf_counts()])
    gap = []
    for t, leaf in enumerate(model.calc_leaf_indexes(X).T):
        own = stored[first[t] : first[t + 1]]
        value = np.zeros_like(own)
        for _ in range(n_steps):
            gradient, hessian = derivatives(y, F + value[leaf])
            if method == "Gradient":
                hessian = np.ones_like(gradient)
            if hessian.ndim == 2:
                hessian = hessian[:, :, None] * np.eye(own.shape[1])
            G = sums(leaf, w[:, None] * gradient, len(own))
            H = sums(leaf, w[:, None, None] * hessian, len(own))
            H = H + l2 * w.mean() * np.eye(own.shape[1])
            value = value - np.linalg.solve(H, G[..., None])[..., 0]
        gap.append(np.abs(np.float32(0.3) * value - own).max())
        F = F + own[leaf]
    return max(gap) / np.abs(stored).max()


METHODS = [
    (loss, method)
    for loss in SMOOTH
    for method in ("Newton", "Gradient")
    if not (method == "Newton" and loss == "Lq:q=1.5")  # which CatBoost refuses
]


@pytest.mark.parametrize(("loss", "method"), METHODS)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_leaves_recompute(loss, method, n_steps):
    target = TARGETS[SMOOTH[loss][0]]
    model = trained(
        loss, target, leaf_estimation_method=method, leaf_estimation_iterations=n_steps,
        leaf_estimation_backtracking="No", l2_leaf_reg=2,
    )  # fmt: skip
    run = trace(model, X, target, WEIGHT)
    assert run.replay.recipe.inexact_because == ()
    if "Lq" in loss and n_steps == 3 and method == "Gradient":
        assert run.replay.error.largest <= 1e-6
        return  # such steps overshoot to numbers without end
    gap = stepwise_leaves(model, loss, 2, n_steps, method)
    assert gap <= 1e-7, "the equations are not CatBoost's: gradient, Hessian, l2 or bias"
    assert run.replay.error.largest <= 1e-7, "the recipe does not follow the equations"


@pytest.mark.parametrize(("loss", "method"), METHODS)
def test_steps_that_were_taken_are_found(loss, method):
    target = TARGETS[SMOOTH[loss][0]]
    model = trained(
        loss, target, leaf_estimation_method=method, leaf_estimation_iterations=5,
        l2_leaf_reg=0.01, iterations=12, learning_rate=0.8,
    )  # fmt: skip
    run = trace(model, X, target, WEIGHT)
    assert run.replay.recipe.inexact_because == ()
    assert run.replay.error.largest <= 1e-6


def test_some_steps_are_refused():
    """Else the test above tests nothing."""
    n_refused = {}
    for loss in ("Huber:delta=0.7", "Lq:q=1.5", "CrossEntropy", "MultiClass"):
        target = TARGETS[SMOOTH[loss][0]]
        params = {"leaf_estimation_iterations": 5, "iterations": 25, "learning_rate": 1}
        run = trace(trained(loss, target, l2_leaf_reg=0.01, **params), X, target, WEIGHT)
        taken = run.replay.recipe.taken
        assert taken is not None and run.replay.error.largest <= 1e-6
        n_refused[loss] = int((taken < 1).sum())
    assert min(n_refused.values()) > 0, n_refused


def test_target_border():
    for more in ({}, {"class_weights": [1, 3]}):
        model = trained("Logloss", SIGNAL, target_border=0.3, **more)
        run = trace(model, X, SIGNAL, WEIGHT)
        assert run.classes is None, "the target is a number"
        assert run.replay.error.largest <= 1e-10
        p = model.predict(X, prediction_type="Probability")[:, 1]
        expected = -np.log(np.where(SIGNAL > 0.3, p, 1 - p))
        np.testing.assert_allclose(run.losses(run.queries(X, SIGNAL)), expected, rtol=1e-6)


@pytest.mark.parametrize("l2", [0, 1e-9, 1e-3])
def test_a_softmax_almost_without_l2(l2):
    """CatBoost solves a singular system; the solution is the shortest."""
    target = TARGETS["class"]
    run = trace(trained("MultiClass", target, l2_leaf_reg=l2), X, target, WEIGHT)
    assert run.replay.error.largest <= 1e-5
    values = LeafInfluence().fit(run).explain(X[:3], target[:3], progress=False).values
    assert np.isfinite(values).all()


QUANTILES = {
    "MAE": lambda y, F: abs(F[:, 0] - y),
    "Quantile:alpha=0.3": lambda y, F: np.where(y > F[:, 0], 0.3, -0.7) * (y - F[:, 0]),
    "MultiQuantile:alpha=0.3,0.6": lambda y, F: sum(
        np.where(y > F[:, k], a, a - 1) * (y - F[:, k]) for k, a in enumerate((0.3, 0.6))
    ),
    "MAPE": lambda y, F: abs(F[:, 0] - y) / np.maximum(1, abs(y)),
    "LogLinQuantile:alpha=0.4": lambda y, F: (
        np.where(y > np.exp(F[:, 0]), 0.4, -0.6) * (y - np.exp(F[:, 0]))
    ),
    "RMSEWithUncertainty": lambda y, F: F[:, 1] + (F[:, 0] - y) ** 2 / (2 * np.exp(2 * F[:, 1])),
    "LogCosh": lambda y, F: np.log(np.cosh(F[:, 0] - y)),
}


@pytest.mark.parametrize("loss", QUANTILES)
def test_losses_that_only_judge(loss):
    """Their leaves follow no formula here; queries are judged, and retraining answers."""
    model = trained(loss, SIGNAL)
    run = trace(model, X, SIGNAL, WEIGHT)
    name = loss.partition(":")[0]
    with pytest.raises(UnsupportedModelError, match=name) as raised:
        LeafInfluence().fit(run)
    assert type(raised.value) is UnsupportedModelError
    raw = model.predict(X, prediction_type="RawFormulaVal").reshape(N, -1)
    expected = QUANTILES[loss](SIGNAL, raw)
    np.testing.assert_allclose(run.losses(run.queries(X, SIGNAL)), expected, rtol=1e-6, atol=1e-7)
    again = run.adapter.refit(X, SIGNAL, WEIGHT)
    np.testing.assert_allclose(again.library_raw(X.astype(np.float32)), raw, atol=1e-12)


class Custom:
    def calc_ders_range(self, approxes, targets, weights):
        return [(targets[i] - approxes[i], -1.0) for i in range(len(targets))]


REFUSED = {
    "QueryRMSE": "ranking", "QuerySoftMax": "ranking", "YetiRank": "ranking",
    "PairLogit": "ranking", "LambdaMart": "ranking", "Cox": "survival",
    "StochasticFilter": "ranking", "GroupQuantile": "ranking",
}  # fmt: skip


@pytest.mark.parametrize("loss", REFUSED)
def test_losses_that_are_no_sum_over_rows(loss):
    y = TARGETS["zero or one"] + (0.5 if loss == "Cox" else 0)
    settings = {"iterations": 2, "depth": 2, "verbose": False, "allow_writing_files": False}
    pool = catboost.Pool(X, y, group_id=None if loss == "Cox" else np.arange(N) // 8)
    model = catboost.CatBoost({**settings, "loss_function": loss}).fit(pool)
    run = trace(model, X, y)
    for ask in (lambda: LeafInfluence().fit(run), run.adapter.loss):
        with pytest.raises(UnsupportedModelError, match=f"{loss}.*{REFUSED[loss]}") as raised:
            ask()
        assert type(raised.value) is UnsupportedModelError


def test_custom_objectives_and_survival_times():
    settings = {"iterations": 2, "verbose": False, "allow_writing_files": False}
    model = catboost.CatBoost({**settings, "loss_function": Custom(), "eval_metric": "RMSE"})
    run = trace(model.fit(X, SIGNAL), X, SIGNAL)
    with pytest.raises(UnsupportedModelError, match="custom objective"):
        LeafInfluence().fit(run)
    times = np.exp(np.column_stack([SIGNAL, SIGNAL + 1]))
    model = catboost.CatBoost({**settings, "loss_function": "SurvivalAft"}).fit(X, times)
    with pytest.raises(UnsupportedModelError, match="survival"):
        LeafInfluence().fit(trace(model, X, times))
    with pytest.raises(NotYetSupportedError, match="SomethingNew"):
        parse(model, {"loss_function": "SomethingNew"}).loss()


@pytest.mark.parametrize("loss", ["MultiRMSE", "MultiLogloss", "MultiClassOneVsAll", "Poisson"])
def test_retraining(loss):
    target = TARGETS[SMOOTH[loss][0]]
    run = trace(trained(loss, target), X, target, WEIGHT)
    effects = retrainer(run, X[:5], target[:5])
    np.testing.assert_array_equal(effects(Without([])), 0)
    kept = np.arange(3, N)
    fewer = run.adapter.refit(X[kept], target[kept], WEIGHT[kept])
    rows = X[:5].astype(np.float32)
    loss_of = run.adapter.loss().value
    y = np.asarray(target[:5], dtype=float)
    expected = loss_of(y, fewer.library_raw(rows)) - loss_of(y, run.adapter.library_raw(rows))
    np.testing.assert_allclose(effects(Without([0, 1, 2])), expected, atol=1e-12)
    if target.ndim == 1:
        assert np.abs(effects(Relabelled([0], [target[0]]))).max() == 0
        assert np.abs(effects(Relabelled([0], [target.max() - target[0]]))).max() > 0


def test_other_rows_are_noticed():
    for loss in ("Poisson", "CrossEntropy", "MultiClassOneVsAll"):
        target = TARGETS[SMOOTH[loss][0]]
        model = trained(loss, target, leaf_estimation_iterations=4)
        with pytest.raises(TrainingDataError, match="not the rows"):
            trace(model, X[::-1], target, WEIGHT)
