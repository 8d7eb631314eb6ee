"""Real retraining of models that no leaf formula answers, and from containers and other tables."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn import ensemble

from influence import Reweighted, Without
from influence.errors import UnsupportedModelError
from tree_influence import LeafInfluence, retrainer, trace

RNG = np.random.default_rng(4)
X = RNG.normal(size=(130, 3)).astype(np.float32).astype(float)
SCORE = X[:, 0] + X[:, 1] * (X[:, 2] > 0) + 0.3 * RNG.normal(size=130)
LABEL = (SCORE > 0.2).astype(int)
TRAIN, ASKED = slice(0, 120), slice(120, 130)
GONE = np.array([3, 50, 77])
KEPT = np.setdiff1d(np.arange(120), GONE)


def absolute(y, model, rows):
    return np.abs(y - model.predict(rows))


def pinball(y, model, rows):
    x = y - model.predict(rows)
    return np.maximum(0.7 * x, -0.3 * x)


def squared(y, model, rows):
    return 0.5 * (y - model.predict(rows)) ** 2


def log_loss(y, model, rows):
    p = model.predict_proba(rows)[np.arange(len(y)), y]
    return -np.log(np.clip(p, np.finfo(float).eps, 1))


def lightgbm(objective, **params):
    from lightgbm import LGBMRegressor

    return LGBMRegressor(objective=objective, n_estimators=5, verbose=-1, n_jobs=1, **params)


def xgboost(objective, **params):
    from xgboost import XGBRegressor

    return XGBRegressor(objective=objective, n_estimators=5, max_depth=3, n_jobs=1, **params)


def catboost(loss):
    from catboost import CatBoostRegressor

    return CatBoostRegressor(
        loss_function=loss, iterations=5, depth=3, verbose=False, allow_writing_files=False,
        thread_count=1,
    )  # fmt: skip


FOREST = {"n_estimators": 7, "max_depth": 4, "random_state": 0}
RF = {"boosting_type": "rf", "bagging_freq": 1, "subsample": 0.7, "random_state": 3}
MODELS = {
    "lightgbm quantile": (lambda: lightgbm("quantile", alpha=0.7), SCORE, pinball),
    "lightgbm l1": (lambda: lightgbm("l1"), SCORE, absolute),
    "lightgbm rf": (lambda: lightgbm("regression", **RF), SCORE, squared),
    "lightgbm dart": (
        lambda: lightgbm("regression", boosting_type="dart", drop_rate=0.9, skip_drop=0.0),
        SCORE, squared,
    ),
    "xgboost absoluteerror": (lambda: xgboost("reg:absoluteerror"), SCORE, absolute),
    "xgboost quantileerror": (
        lambda: xgboost("reg:quantileerror", quantile_alpha=0.7), SCORE, pinball,
    ),
    "catboost MAE": (lambda: catboost("MAE"), SCORE, absolute),
    "catboost Quantile": (lambda: catboost("Quantile:alpha=0.7"), SCORE, pinball),
    "GradientBoosting quantile": (
        lambda: ensemble.GradientBoostingRegressor(
            loss="quantile", alpha=0.7, n_estimators=5, random_state=0
        ),
        SCORE, pinball,
    ),
    "HistGradientBoosting absolute_error": (
        lambda: ensemble.HistGradientBoostingRegressor(loss="absolute_error", max_iter=5),
        SCORE, absolute,
    ),
    "RandomForestRegressor": (lambda: ensemble.RandomForestRegressor(**FOREST), SCORE, squared),
    "ExtraTreesClassifier": (lambda: ensemble.ExtraTreesClassifier(**FOREST), LABEL, log_loss),
    "RandomForestClassifier": (lambda: ensemble.RandomForestClassifier(**FOREST), LABEL, log_loss),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_effects_are_those_of_fitting_by_hand(name):
    make, y, loss = MODELS[name]
    model = make().fit(X[TRAIN], y[TRAIN])
    run = trace(model, X[TRAIN], y[TRAIN])
    with pytest.raises(UnsupportedModelError, match=r"[Rr]etraining"):
        LeafInfluence().fit(run)
    retrain = retrainer(run, X[ASKED], y[ASKED])
    before = loss(y[ASKED], model, X[ASKED])
    np.testing.assert_allclose(run.losses(run.queries(X[ASKED], y[ASKED])), before, rtol=1e-4)
    np.testing.assert_array_equal(retrain(Without([])), 0.0)
    again = make().fit(X[KEPT], y[KEPT])
    expected = loss(y[ASKED], again, X[ASKED]) - before
    np.testing.assert_allclose(retrain(Without(GONE)), expected, rtol=1e-3, atol=1e-5)


def check_container(run, asked, expected):
    """No effect of nothing, the expected one of leaving rows out, and none of weights of 1."""
    retrain = retrainer(run, asked)
    np.testing.assert_array_equal(retrain(Without([])), 0.0)
    np.testing.assert_allclose(retrain(Without(GONE)), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(retrain(Reweighted(np.ones(120))), 0.0, atol=1e-6)


def logistic(y, score):
    return np.logaddexp(0, score) - y * score


def test_a_dataset_with_starting_scores():
    import lightgbm

    start = RNG.normal(size=130).round(2)
    params = {"objective": "binary", "verbose": -1, "num_threads": 1}

    def data(rows):
        return lightgbm.Dataset(X[rows], LABEL[rows], init_score=start[rows], free_raw_data=False)

    whole = data(np.arange(120))
    booster = lightgbm.train(params, whole, 5)
    again = lightgbm.train(params, data(KEPT), 5)
    scores = [one.predict(X[ASKED], raw_score=True) + start[ASKED] for one in (again, booster)]
    after, before = (logistic(LABEL[ASKED], score) for score in scores)
    run = trace(booster, whole)
    assert run.provenance["leaf_error_largest"] < 1e-6
    check_container(run, data(np.arange(120, 130)), after - before)


def test_a_matrix_with_starting_scores():
    import xgboost

    start = RNG.normal(size=130).astype(np.float32)
    params = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1}

    def data(rows):
        return xgboost.DMatrix(X[rows], LABEL[rows], base_margin=start[rows])

    whole = data(np.arange(120))
    booster, again = (xgboost.train(params, one, 5) for one in (whole, data(KEPT)))
    asked = data(np.arange(120, 130))
    after, before = (
        logistic(LABEL[ASKED], one.predict(asked, output_margin=True)) for one in (again, booster)
    )
    run = trace(booster, whole)
    assert run.provenance["leaf_error_largest"] < 1e-4
    check_container(run, asked, after - before)


def test_a_pool_that_keeps_its_rows():
    import catboost

    table = pd.DataFrame({"x": X[:, 0], "town": np.where(X[:, 1] > 0, "Ulm", "Rom")})

    def data(rows):
        return catboost.Pool(table.iloc[rows], LABEL[rows], cat_features=["town"])

    def fit(pool):
        return catboost.CatBoostClassifier(
            iterations=5, depth=3, verbose=False, allow_writing_files=False, thread_count=1,
            learning_rate=0.2, one_hot_max_size=5, boosting_type="Plain",
        ).fit(pool)  # fmt: skip

    whole = data(np.arange(120))
    model, again = fit(whole), fit(data(KEPT))
    asked = data(np.arange(120, 130))
    after, before = (
        logistic(LABEL[ASKED], one.predict(asked, prediction_type="RawFormulaVal"))
        for one in (again, model)
    )
    check_container(trace(model, whole), asked, after - before)


@pytest.mark.parametrize("form", ["csr", "polars", "arrow"])
def test_rows_of_other_kinds(form):
    import pyarrow
    from lightgbm import LGBMClassifier

    table = pd.DataFrame(X, columns=["a", "b", "c"])
    convert = {
        "csr": lambda one: scipy.sparse.csr_matrix(one.to_numpy()),
        "polars": lambda one: pytest.importorskip("polars").from_pandas(one),
        "arrow": lambda one: pyarrow.Table.from_pandas(one, preserve_index=False),
    }[form]
    seen = table.to_numpy() if form == "csr" else table
    model = LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(seen[TRAIN], LABEL[TRAIN])
    plain = retrainer(trace(model, seen[TRAIN], LABEL[TRAIN]), seen[ASKED], LABEL[ASKED])
    run = trace(model, convert(table[TRAIN]), LABEL[TRAIN])
    other = retrainer(run, convert(table[ASKED]), LABEL[ASKED])
    np.testing.assert_allclose(other(Without(GONE)), plain(Without(GONE)), rtol=1e-9)
