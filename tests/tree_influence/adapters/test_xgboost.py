"""The XGBoost adapter against XGBoost's own predictions and leaves."""

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from influence import Without
from influence.errors import (
    InputError,
    MissingParameterError,
    NotFittedError,
    NotYetSupportedError,
    StorageError,
    TrainingDataError,
    UnsupportedModelError,
)
from tree_influence import BoostIn, LeafInfluence, adapters, retrainer, trace

OBJECTIVES = ["reg:squarederror", "binary:logistic", "multi:softprob"]


def make_table(seed, n=150):
    """Numbers with missing values, text categories, integer categories."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "x": rng.normal(size=n).round(2),
            "k": rng.integers(-3, 3, n),
            "city": pd.Categorical(rng.choice(["Bern", "Oslo", "Riga", "Ulm", "Rom"], n)),
            "zip": pd.Categorical(rng.choice([10, 30, 20], n)),
        }
    )
    table.loc[rng.random(n) < 0.2, "x"] = np.nan
    table.loc[rng.random(n) < 0.1, "city"] = np.nan
    score = table["x"].fillna(1) + (table["city"] == "Oslo") - (table["zip"] == 30)
    return table, (score + 0.5 * rng.normal(size=n)).to_numpy()


def target_of(score, objective):
    if objective == "reg:squarederror":
        return score
    if objective == "binary:logistic":
        return (score > 0).astype(int)
    return np.digitize(score, [-0.5, 0.7])


def make_model(objective, **params):
    classifies = objective.startswith(("binary", "multi"))
    kind = xgboost.XGBClassifier if classifies else xgboost.XGBRegressor
    return kind(**{"n_estimators": 4, "n_jobs": 1, "objective": objective, **params})


def check_parity(adapter, features):
    leaves = adapter.leaves(features)
    np.testing.assert_array_equal(
        adapter.ensemble.labels(leaves), adapter.library_leaves(features),
        "rows fall into other leaves: comparison, missing values or categories",
    )  # fmt: skip
    np.testing.assert_allclose(
        adapter.ensemble.raw(leaves), adapter.library_raw(features), rtol=1e-5, atol=1e-5,
        err_msg="leaves agree but scores do not: bias, dropped trees or the order of outputs",
    )  # fmt: skip


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(OBJECTIVES), st.sampled_from([1, 8]))
def test_parity_with_missing_values_and_categories(seed, objective, onehot):
    table, score = make_table(seed)
    model = make_model(objective, max_cat_to_onehot=onehot, enable_categorical=True)
    model.fit(table, target_of(score, objective))
    adapter = adapters.parse(model)
    check_parity(adapter, adapter.features(table))
    fresh, _ = make_table(seed + 1)
    fresh.loc[::7, ["x", "k"]] = np.nan
    fresh.loc[::11, "zip"] = np.nan
    fresh.loc[3, "x"] = 1e30
    check_parity(adapter, adapter.features(fresh))


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_thresholds_are_compared_as_float32(seed):
    """Rows placed on and next to thresholds fall where the library puts them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(120, 2))
    model = make_model("reg:squarederror").fit(X, X[:, 0] * X[:, 1])
    adapter = adapters.parse(model)
    on = np.nextafter(np.float32(adapter.ensemble.threshold), np.float32(np.inf))
    rows = np.concatenate([on, np.nextafter(on, np.float32(-np.inf)), on + 1e-12])
    check_parity(adapter, adapter.features(np.column_stack([rows, rows])))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_default_models_recompute(objective):
    table, score = make_table(0, 400)
    y = target_of(score, objective)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    for given_weight in (None, weight):
        model = make_model(objective, n_estimators=100, enable_categorical=True)
        model.fit(table, y, sample_weight=given_weight)
        error = trace(model, table, y, given_weight).replay.error
        assert error.largest < 1e-4, f"leaves do not recompute: {error}"


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_file_gives_the_same_as_the_live_model(objective, suffix, tmp_path):
    table, score = make_table(1, 300)
    y = target_of(score, objective)
    model = make_model(objective, reg_lambda=7, learning_rate=0.2, enable_categorical=True)
    model.fit(table, y)
    path = tmp_path / f"model.{suffix}"
    model.save_model(path)
    live = BoostIn().fit(model, table, y).explain(table[:5], y[:5]).values
    found = BoostIn().fit(path, table, y).explain(table[:5], y[:5]).values
    np.testing.assert_allclose(found, live, rtol=1e-3, atol=1e-5 * np.abs(live).max())
    told = {"reg_lambda": 7, "learning_rate": 0.2}
    run = trace(path, table, y, params=told)
    assert set(run.replay.recipe.l2) == {7.0}
    exact = BoostIn().fit(run).explain(table[:5], y[:5]).values
    np.testing.assert_allclose(exact, live, rtol=1e-5, atol=1e-7 * np.abs(live).max())


def test_a_file_whose_leaves_tell_nothing_asks_for_its_parameters(tmp_path):
    table, score = make_table(1, 300)
    model = make_model("reg:squarederror", subsample=0.9, reg_lambda=3, enable_categorical=True)
    model.fit(table, score).save_model(tmp_path / "model.json")
    assert "subsample" in trace(model, table, score).provenance["leaves_inexact_because"]
    with pytest.raises(MissingParameterError, match="reg_lambda"):
        LeafInfluence().fit(tmp_path / "model.json", table, score)
    told = {"reg_lambda": 3, "learning_rate": 0.3, "subsample": 0.9}
    run = trace(tmp_path / "model.json", table, score, params=told)
    assert "subsample" in run.provenance["leaves_inexact_because"]
    wrong = {"reg_lambda": 30, "learning_rate": 0.3}
    with pytest.raises(TrainingDataError):
        trace(tmp_path / "model.json", table, score, params=wrong)


@pytest.mark.parametrize(
    ("params", "name"),
    [({"reg_alpha": 0.5}, "alpha"), ({"max_delta_step": 0.1}, "max_delta_step")],
)
def test_settings_that_bound_leaves_are_named(params, name):
    table, score = make_table(1, 300)
    model = make_model("reg:squarederror", enable_categorical=True, **params).fit(table, score)
    run = trace(model, table, score, allow_inexact=True)
    assert name in run.provenance["leaves_inexact_because"]


def test_text_columns_as_a_csv_gives_them():
    table, score = make_table(2)
    y = target_of(score, "binary:logistic")
    model = make_model("binary:logistic", enable_categorical=True).fit(table, y)
    adapter = adapters.parse(model)
    plain = table.assign(city=table["city"].astype(object), zip=table["zip"].astype(float))
    np.testing.assert_array_equal(adapter.features(plain), adapter.features(table))
    backwards = table.assign(city=table["city"].cat.reorder_categories(["Ulm", "Rom", "Riga",
        "Oslo", "Bern"]))  # fmt: skip
    np.testing.assert_array_equal(adapter.features(backwards), adapter.features(table))
    np.testing.assert_array_equal(
        adapter.library_raw(adapter.features(table))[:, 0],
        model.predict(table, output_margin=True).astype(float),
    )


def test_early_stopping_follows_the_owners_predict():
    table, score = make_table(3)
    X, y = table[["x", "k"]], target_of(score, "binary:logistic")
    model = make_model(
        "binary:logistic", n_estimators=50, early_stopping_rounds=2, learning_rate=1.0
    )
    model.fit(X[:100], y[:100], eval_set=[(X[100:], y[100:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    cut, whole = adapters.parse(model), adapters.parse(model.get_booster())
    assert cut.ensemble.n_rounds == model.best_iteration + 1
    assert whole.ensemble.n_rounds == model.get_booster().num_boosted_rounds()
    features = cut.features(X)
    check_parity(cut, features)
    check_parity(whole, features)
    margin = model.predict(X, output_margin=True)
    np.testing.assert_allclose(cut.ensemble.raw(cut.leaves(features))[:, 0], margin, rtol=1e-5)


def test_positive_weight_and_missing_value():
    table, score = make_table(4, 300)
    X, y = table[["x", "k"]].fillna(-999), target_of(score, "binary:logistic")
    model = make_model("binary:logistic", scale_pos_weight=3.0, missing=-999).fit(X, y)
    run = trace(model, X, y)
    assert run.replay.error.largest < 1e-5
    np.testing.assert_array_equal(run.weight, np.where(y == 1, 3.0, 1.0))
    booster = model.get_booster()
    with pytest.raises((TrainingDataError, MissingParameterError)):
        LeafInfluence().fit(booster, X, y)
    assert trace(booster, X, y, params={"missing": -999}).replay.error.largest < 1e-5


def test_dart_and_boosted_forests_are_read_but_not_explained():
    table, score = make_table(5)
    X = table[["x", "k"]]
    for params, error, says in (
        ({"booster": "dart", "rate_drop": 0.5, "seed": 1}, UnsupportedModelError, "DART"),
        ({"num_parallel_tree": 3, "subsample": 0.7}, NotYetSupportedError, "num_parallel_tree=3"),
    ):
        y = target_of(score, "multi:softprob")
        model = make_model("multi:softprob", n_estimators=6, **params).fit(X, y)
        adapter = adapters.parse(model)
        check_parity(adapter, adapter.features(X))
        with pytest.raises(error, match=says):
            BoostIn().fit(model, X, y)


def refused_models():
    table, score = make_table(6)
    X = table[["x", "k"]].fillna(0)
    two = np.column_stack([score, score])
    vector = make_model("reg:squarederror", multi_strategy="multi_output_tree", tree_method="hist")
    return [
        (xgboost.XGBRegressor(), NotFittedError, "fit"),
        (xgboost.XGBRegressor(booster="gblinear").fit(X, score), UnsupportedModelError, "gblinear"),
        (vector.fit(X, two), UnsupportedModelError, "multi_output_tree"),
    ]


@pytest.mark.parametrize("place", range(3))
def test_models_that_cannot_be_read_are_refused(place):
    model, error, says = refused_models()[place]
    with pytest.raises(error, match=says):
        adapters.parse(model)


@pytest.mark.parametrize("objective", ["reg:absoluteerror", "count:poisson"])
def test_other_objectives_are_refused_by_name(objective):
    table, score = make_table(7)
    X, y = table[["x", "k"]], np.abs(score)
    model = make_model(objective).fit(X, y)
    check_parity(adapters.parse(model), adapters.parse(model).features(X))
    with pytest.raises(UnsupportedModelError, match=objective):
        BoostIn().fit(model, X, y)


def test_bad_features_are_named():
    table, score = make_table(8)
    model = make_model("reg:squarederror", enable_categorical=True).fit(table, score)
    adapter = adapters.parse(model)
    for bad, says in (
        (table[["k", "x", "city", "zip"]], "'x' at position 0, got 'k'"),
        (table[["x", "k", "city"]], "4 columns, got 3"),
        (table.assign(city="Paris"), "'Paris', a category unseen"),
        (table.assign(x="red"), "numbers in column 'x'"),
        (table.assign(x=np.inf), "infinite"),
        (np.zeros((3, 5)), "4 columns, got 5"),
        (np.zeros(3), "two-dimensional"),
    ):
        with pytest.raises(InputError, match=says):
            adapter.features(bad)
    with pytest.raises(InputError, match="no answer depends"):
        adapters.parse(model, {"max_depht": 3})
    with pytest.raises(InputError, match="must be a number"):
        adapters.parse(model, {"reg_lambda": "big"})


def test_damaged_files_are_named(tmp_path):
    table, score = make_table(8)
    model = make_model("reg:squarederror").fit(table[["x", "k"]], score)
    for suffix in ("json", "ubj"):
        path = tmp_path / f"model.{suffix}"
        model.save_model(path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(StorageError, match="damaged"):
            adapters.load(path)


def test_retraining_a_booster(tmp_path):
    table, score = make_table(9, 200)
    y = target_of(score, "multi:softprob")
    params = {"objective": "multi:softprob", "num_class": 3, "lambda": 2.0, "max_depth": 3}
    rows = xgboost.DMatrix(table, y, enable_categorical=True)
    booster = xgboost.train(params, rows, 4)
    run = trace(booster, table, y)
    retrain = retrainer(run, table[:6], y[:6])
    by_hand = xgboost.train(params, xgboost.DMatrix(table[20:], y[20:], enable_categorical=True), 4)
    asked = xgboost.DMatrix(table[:6], enable_categorical=True)
    p = [model.predict(asked)[np.arange(6), y[:6]] for model in (by_hand, booster)]
    effect = retrain(Without(np.arange(20)))
    np.testing.assert_allclose(effect, np.log(p[1]) - np.log(p[0]), atol=1e-5)
    params = {"objective": "reg:squarederror", "lambda": 2.0}
    xgboost.train(params, xgboost.DMatrix(table[["x"]], score), 2).save_model(tmp_path / "m.json")
    from_file = trace(tmp_path / "m.json", table[["x"]], score)
    with pytest.raises(MissingParameterError, match="train it again"):
        retrainer(from_file, table[["x"]], score)
