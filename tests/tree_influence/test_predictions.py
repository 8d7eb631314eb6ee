"""Predictions of a run are the library's own, on the scale its predict uses."""

import numpy as np
import pytest

from tree_influence import trace

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 3)).astype(np.float32)
SCORE = X[:, 0] + X[:, 1] * (X[:, 2] > 0) + 0.3 * RNG.normal(size=150)
TARGETS = {
    "real": SCORE,
    "positive": np.exp(SCORE / 2) + 0.1,
    "count": RNG.poisson(np.exp(SCORE / 2)).astype(float),
    "share": 1 / (1 + np.exp(-SCORE)),
    "two": np.column_stack([SCORE, SCORE**2]),
}


def lightgbm(objective, **params):
    from lightgbm import LGBMRegressor

    return LGBMRegressor(objective=objective, n_estimators=5, verbose=-1, n_jobs=1, **params)


def xgboost(objective, **params):
    from xgboost import XGBRegressor

    return XGBRegressor(objective=objective, n_estimators=5, max_depth=3, n_jobs=1, **params)


def catboost(loss, **params):
    from catboost import CatBoostRegressor

    return CatBoostRegressor(
        loss_function=loss, iterations=5, depth=3, verbose=False, allow_writing_files=False,
        thread_count=1, **params,
    )  # fmt: skip


def hist(loss, **params):
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(loss=loss, max_iter=5, **params)


def forest(criterion, **params):
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(5, criterion=criterion, max_depth=4, random_state=0, **params)


CASES = [
    *((lightgbm, name, "real", {}) for name in ("regression", "l1", "huber", "fair", "quantile")),
    *((lightgbm, name, "positive", {}) for name in ("gamma", "mape")),
    *((lightgbm, name, "count", {}) for name in ("poisson", "tweedie")),
    *((lightgbm, name, "share", {}) for name in ("cross_entropy", "cross_entropy_lambda")),
    (lightgbm, "regression", "real", {"reg_sqrt": True}),
    (lightgbm, "regression", "real", {"boosting_type": "rf", "bagging_freq": 1, "subsample": 0.7}),
    (lightgbm, "poisson", "count", {"boosting_type": "rf", "bagging_freq": 1, "subsample": 0.7}),
    *((xgboost, f"reg:{name}", "real", {}) for name in ("squarederror", "absoluteerror")),
    (xgboost, "reg:pseudohubererror", "real", {}),
    (xgboost, "reg:quantileerror", "real", {"quantile_alpha": 0.7}),
    *((xgboost, f"reg:{name}", "positive", {}) for name in ("gamma", "squaredlogerror")),
    *((xgboost, name, "count", {}) for name in ("count:poisson", "reg:tweedie")),
    *((xgboost, name, "share", {}) for name in ("reg:logistic", "binary:logistic")),
    (xgboost, "reg:quantileerror", "real", {"quantile_alpha": [0.2, 0.7]}),
    (xgboost, "reg:squarederror", "two", {}),
    (xgboost, "reg:squarederror", "two", {"multi_strategy": "multi_output_tree"}),
    *((catboost, name, "real", {}) for name in ("RMSE", "MAE", "Huber:delta=1", "Quantile")),
    (catboost, "MultiQuantile:alpha=0.2,0.7", "real", {}),
    *((catboost, name, "count", {}) for name in ("Poisson", "Tweedie:variance_power=1.5")),
    (catboost, "MultiRMSE", "two", {}),
    *((hist, name, "real", {}) for name in ("squared_error", "absolute_error")),
    (hist, "poisson", "count", {}),
    (hist, "gamma", "positive", {}),
    *((forest, name, "real", {}) for name in ("squared_error", "absolute_error")),
    (forest, "squared_error", "two", {}),
]


@pytest.mark.parametrize(
    ("make", "objective", "target", "params"), CASES,
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)  # fmt: skip
def test_numbers_are_those_of_predict(make, objective, target, params):
    y = TARGETS[target]
    model = make(objective, **params).fit(X, y)
    run = trace(model, X, y)
    expected = np.asarray(model.predict(X[:40]))
    np.testing.assert_allclose(run.predictions(X[:40]), expected, rtol=2e-5, atol=1e-6)
    assert np.isfinite(run.losses(run.queries(X[:40], y[:40]))).all()
