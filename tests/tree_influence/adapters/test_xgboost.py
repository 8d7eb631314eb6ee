"""XGBoost models read as the library itself predicts: rows, tables, files and refusals."""

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from influence.errors import InputError, NotFittedError, UnsupportedModelError
from tests.tree_influence.adapters.xgboost_oracle import (
    KNOWS_NAMES,
    OBJECTIVES,
    VERSION,
    check_parity,
    fit,
    make_model,
    make_table,
    stored_trees,
    target_of,
)
from tree_influence.adapters import parse

names = pytest.mark.skipif(not KNOWS_NAMES, reason="the model has codes only")


@given(st.integers(0, 10_000), st.sampled_from(OBJECTIVES), st.sampled_from([1, 8]))
def test_tables_with_missing_values_and_categories(seed, objective, onehot):
    model, table, *_ = fit(objective, seed, max_cat_to_onehot=onehot)
    check_parity(model, table)
    fresh, _ = make_table(seed + 1)
    fresh.loc[::7, ["x", "k"]] = np.nan
    fresh.loc[::11, "zip"] = np.nan
    fresh.loc[3:5, "x"] = [1e30, -1e30, 1e-40]
    check_parity(model, fresh)


@given(st.integers(0, 10_000), st.sampled_from(["exact", "hist", "approx"]), st.booleans())
def test_rows_on_and_next_to_thresholds(seed, tree_method, prune):
    """float32 comparison, at every threshold; pruning leaves nodes behind that are no leaves."""
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((150, 2)) < 0.1, np.nan, rng.normal(size=(150, 2)))
    y = np.nan_to_num(X[:, 0] * X[:, 1]) + 0.3 * rng.normal(size=150)
    params = {"tree_method": tree_method, "gamma": 1.0 if prune else 0.0}
    model = xgboost.XGBRegressor(n_estimators=4, **params).fit(X, y)
    below = parse(model).ensemble.threshold
    on = np.nextafter(below.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    near = np.concatenate([on, below, on + 1e-12, on - 1e-12, [np.nan, 0.0, -0.0, 1e-45, 3e38]])
    check_parity(model, rng.choice(near, size=(200, 2)))


def test_pruned_nodes_are_no_leaves():
    table, score = make_table(0)
    table = table[["x", "k"]]
    model = xgboost.XGBRegressor(n_estimators=4, tree_method="exact", gamma=2.0).fit(table, score)
    pruned = [int(tree["tree_param"]["num_deleted"]) for tree in stored_trees(model)]
    assert sum(pruned) > 0
    kept = [int(tree["tree_param"]["num_nodes"]) for tree in stored_trees(model)]
    n_nodes = np.array(kept) - pruned
    np.testing.assert_array_equal(parse(model).ensemble.leaf_counts, (n_nodes + 1) // 2)
    check_parity(model, table)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8, bool, object])
def test_arrays_of_any_number_type(dtype):
    rng = np.random.default_rng(0)
    X = rng.integers(-3, 3, (100, 3)).astype(dtype)
    model = make_model("reg:squarederror").fit(X.astype(float), X[:, 0] * 1.0)
    features = parse(model).features(X)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, X.astype(np.float32))


def test_columns_with_nullable_numbers():
    table, score = make_table(0)
    plain = table[["x", "k"]].assign(b=table["x"] > 0)
    model = make_model("reg:squarederror").fit(plain, score)
    nullable = pd.DataFrame(
        {"x": table["x"].astype("Float64"), "k": table["k"].astype("Int64"), "b": plain["b"]}
    ).astype({"b": "boolean"})
    nullable.loc[3, ["k", "b"]] = pd.NA
    check_parity(model, nullable)


def test_codes_of_categories():
    """Trained on codes, the model knows no names; codes it cannot know go left, like negatives."""
    table, score = make_table(1, 300)
    X = np.column_stack([table["x"], as_codes(table["city"])])
    model = make_model("reg:squarederror", feature_types=["q", "c"], max_cat_to_onehot=1)
    model.fit(X, score)
    check_parity(model, X)
    rng = np.random.default_rng(0)
    X[:, 1] = rng.choice([0, 1.7, 3, 5, 100, 2**24, 1e10, -1, -0.5, -7, np.nan], len(X))
    check_parity(model, X)
    with pytest.raises(InputError, match="codes of categories"):
        parse(model).features(pd.DataFrame({"x": table["x"], "city": table["city"].astype(str)}))
    as_table = pd.DataFrame({"x": table["x"], "city": table["city"]})
    np.testing.assert_array_equal(parse(model).features(as_table)[:, 1], as_codes(table["city"]))


def as_codes(column):
    codes = column.cat.codes.to_numpy(dtype=float)
    return np.where(codes < 0, np.nan, codes)


@names
def test_text_columns_as_a_csv_gives_them():
    model, table, *_ = fit("binary:logistic", 2)
    adapter = parse(model)
    expected, town = adapter.features(table), pd.Series(table["city"])
    np.testing.assert_array_equal(expected[:, 2], as_codes(town))
    for city in (
        town.astype(object),
        town.astype("string"),
        town.astype("str").where(town.notna()),
        town.cat.reorder_categories(["Ulm", "Rom", "Riga", "Oslo", "Bern"]),
        town.cat.add_categories(["Paris"]),
    ):
        for kind in (int, float, object, "Int64"):
            plain = table.assign(city=city, zip=table["zip"].astype(kind))
            np.testing.assert_array_equal(adapter.features(plain), expected)
    np.testing.assert_array_equal(adapter.features(table.to_numpy()), expected)
    np.testing.assert_array_equal(adapter.features(expected), expected, "an array holds codes")


@names
def test_text_that_a_file_turns_into_numbers():
    table, score = make_table(2)
    table = table.assign(zip=table["zip"].astype(str).astype("category"), city=table["x"] > 0)
    table["city"] = table["city"].astype(str).astype("category")
    model = make_model("reg:squarederror").fit(table, score)
    check_parity(model, table)
    for kind in (int, float):
        plain = table.assign(zip=table["zip"].astype(kind), city=table["city"] == "True")
        np.testing.assert_array_equal(parse(model).features(plain), parse(model).features(table))


@names
def test_names_of_categories_that_are_not_ascii():
    """XGBoost 3.1 to 3.3 cut them: the model is not misled, and says so where it cannot know."""
    cities = ["Gdańsk", "Köln", "Rom", "Ulm"]
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"city": pd.Categorical(rng.choice(cities, 200)), "x": rng.normal(size=200)}
    )
    y = np.asarray(table["city"].isin(["Köln", "Ulm"]), dtype=float)
    model = make_model("reg:squarederror").fit(table, y)
    check_parity(model, table)
    adapter = parse(model)
    text = table.assign(city=table["city"].astype(object))
    known = text.loc[text["city"].isin(cities[:3])]
    np.testing.assert_array_equal(adapter.features(known), adapter.features(table.loc[known.index]))
    lost = text.loc[text["city"] == "Ulm"]
    if VERSION < (3, 4):
        with pytest.raises(InputError, match="not ASCII"):
            adapter.features(lost)
    else:
        np.testing.assert_array_equal(adapter.features(lost)[:, 0], 3)
    with pytest.raises(InputError, match="Oslo"):
        adapter.features(text.assign(city="Oslo"))


@pytest.mark.parametrize(
    "objective",
    [
        "reg:squarederror", "reg:logistic", "reg:pseudohubererror", "reg:absoluteerror",
        "reg:quantileerror", "reg:squaredlogerror", "reg:gamma", "reg:tweedie", "count:poisson",
        "survival:cox", "binary:logistic", "binary:logitraw", "binary:hinge", "multi:softmax",
    ],
)  # fmt: skip
@pytest.mark.parametrize("base", [None, 0.3])
def test_every_objective_starts_where_the_library_does(objective, base):
    table, score = make_table(3)
    X, y = xgboost.DMatrix(table[["x", "k"]]), (score > 0) + (0.5 * (objective == "reg:gamma"))
    params = {"objective": objective, "max_depth": 2}
    params |= {"num_class": 2} if objective == "multi:softmax" else {}
    params |= {"quantile_alpha": 0.4} if objective == "reg:quantileerror" else {}
    params |= {} if base is None else {"base_score": base}
    X.set_label(y)
    check_parity(xgboost.train(params, X, 3), table[["x", "k"]])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("y", [0, 1])
def test_constant_targets_and_single_trees(objective, y):
    if objective == "binary:logistic" and VERSION < (3, 2):
        pytest.skip("before 3.2 it refuses labels of one class")
    table, _ = make_table(4)
    classes = {"num_class": 3} if objective.startswith("multi") else {}
    rows = xgboost.DMatrix(table, np.full(len(table), y), enable_categorical=True)
    for n_rounds in (1, 3):
        booster = xgboost.train({"objective": objective, **classes}, rows, n_rounds)
        assert set(parse(booster).ensemble.leaf_counts) == {1}
        check_parity(booster, table)
    single, X, *_ = fit(objective, n_estimators=1, max_depth=1)
    check_parity(single, X)


def test_other_values_for_missing():
    table, score = make_table(5, 300)
    filled = table[["x", "k"]].fillna(-999.0)
    model = make_model("reg:squarederror", missing=-999.0).fit(filled, score)
    check_parity(model, filled)
    assert np.isnan(parse(model).features(filled)).any()
    booster = model.get_booster()
    rows = xgboost.DMatrix(filled, missing=-999.0)
    adapter = parse(booster, {"missing": -999})
    features = adapter.features(filled)
    np.testing.assert_array_equal(
        adapter.library_raw(features)[:, 0], booster.predict(rows, output_margin=True)
    )
    assert not np.isnan(parse(booster).features(filled)).any()
    zero = make_model("reg:squarederror", missing=0, max_cat_to_onehot=1).fit(table, score)
    check_parity(zero, table)  # the code 0 is missing as well
    infinite = filled.replace(-999.0, np.inf)
    model = make_model("reg:squarederror", missing=np.inf).fit(infinite, score)
    check_parity(model, infinite)


def test_early_stopping_follows_the_owners_predict():
    table, score = make_table(3)
    X, y = table[["x", "k"]], target_of(score, "binary:logistic")
    model = make_model(
        "binary:logistic", n_estimators=50, early_stopping_rounds=2, learning_rate=1.0
    )
    model.fit(X[:100], y[:100], eval_set=[(X[100:], y[100:])], verbose=False)
    n_rounds, best = model.get_booster().num_boosted_rounds(), model.best_iteration
    assert best + 1 < n_rounds
    cut, whole = parse(model), parse(model.get_booster())
    assert (cut.ensemble.n_rounds, whole.ensemble.n_rounds) == (best + 1, n_rounds)
    check_parity(model, X)
    check_parity(model.get_booster(), X)


@pytest.mark.parametrize(
    "params",
    [
        {"booster": "dart", "rate_drop": 0.5, "seed": 1},
        {"num_parallel_tree": 3, "subsample": 0.7},
        {"booster": "dart", "rate_drop": 0.5, "num_parallel_tree": 2, "subsample": 0.7},
    ],
)
def test_dart_and_boosted_forests_are_read(params):
    model, table, *_ = fit("multi:softprob", n_estimators=6, columns=["x", "k"], **params)
    adapter, n_parallel = parse(model), params.get("num_parallel_tree", 1)
    features = adapter.features(table)
    theirs = model.get_booster().predict(xgboost.DMatrix(table), pred_leaf=True, strict_shape=True)
    in_turn = theirs.reshape(-1, 6, 3, n_parallel).transpose(0, 1, 3, 2).reshape(len(table), -1)
    np.testing.assert_array_equal(adapter.library_leaves(features), in_turn)
    np.testing.assert_array_equal(adapter.ensemble.labels(adapter.leaves(features)), in_turn)
    raw = adapter.ensemble.raw(adapter.leaves(features))
    margin = model.predict(table, output_margin=True)
    np.testing.assert_allclose(raw, margin, rtol=1e-5, atol=1e-5, err_msg="dropped trees")


def test_several_targets_are_read():
    table, score = make_table(3)
    model = make_model("reg:squarederror").fit(table, np.column_stack([score, -score, score**2]))
    check_parity(model, table)


@pytest.mark.parametrize("objective", ["reg:squarederror", "multi:softprob"])
@pytest.mark.parametrize("n_rounds", [1, 4])
def test_vector_leaves_are_read(objective, n_rounds):
    table, score = make_table(3)
    table = table[["x", "k"]]
    y = target_of(score, objective)
    y = np.column_stack([score, -score, score**2]) if objective.startswith("reg") else y
    params = {"multi_strategy": "multi_output_tree", "tree_method": "hist"}
    model = make_model(objective, n_estimators=n_rounds, **params).fit(table, y)
    adapter = parse(model)
    leaves, features = adapter.leaves(adapter.features(table)), adapter.features(table)
    assert adapter.ensemble.leaf_value.shape[1] == 3
    theirs = model.apply(table).reshape(len(table), -1)
    np.testing.assert_array_equal(adapter.library_leaves(features), theirs)
    np.testing.assert_array_equal(adapter.ensemble.labels(leaves), theirs)
    raw = model.predict(table, output_margin=True)
    np.testing.assert_allclose(adapter.ensemble.raw(leaves), raw, rtol=1e-5, atol=1e-5)


def refused_models():
    table, score = make_table(6)
    X = table[["x", "k"]].fillna(0)
    return [
        (xgboost.XGBRegressor(), NotFittedError, "fit"),
        (xgboost.Booster(), NotFittedError, "trained"),
        (xgboost.train({}, xgboost.DMatrix(X, score), 0), NotFittedError, "without trees"),
        (xgboost.XGBRegressor(booster="gblinear").fit(X, score), UnsupportedModelError, "gblinear"),
        (xgboost.DMatrix(X), UnsupportedModelError, "DMatrix"),
    ]


@pytest.mark.parametrize("place", range(5))
def test_models_that_cannot_be_read_are_refused(place):
    model, error, says = refused_models()[place]
    with pytest.raises(error, match=says):
        parse(model)


def test_bad_features_are_named():
    model, table, *_ = fit("reg:squarederror", 8)
    unseen = ("'Paris', a category unseen", "11, a category unseen")
    for bad, says in (
        (table[["k", "x", "city", "zip"]], "'x' at position 0, got 'k'"),
        (table[["x", "k", "city"]], "4 columns, got 3"),
        (table.assign(city="Paris"), unseen[0] if KNOWS_NAMES else "codes of categories"),
        (table.assign(zip=11 if KNOWS_NAMES else np.inf), unseen[1] if KNOWS_NAMES else "inf"),
        (table.assign(x="red"), "numbers in column 'x'"),
        (table.assign(x=table["city"]), "numbers in column 'x'"),
        (table.assign(x=pd.Timestamp("2020-01-01")), "numbers in column 'x'"),
        (table.assign(x=np.inf), "infinite.*row 0.*'x'"),
        (table.assign(x=1e300), "infinite.*row 0.*'x'"),
        (np.zeros((3, 5)), "4 columns, got 5"),
        (np.zeros(3), "two-dimensional"),
        (np.zeros((3, 4), dtype=complex), "two-dimensional"),
    ):
        with pytest.raises(InputError, match=says):
            parse(model).features(bad)
    with pytest.raises(InputError, match="no answer depends"):
        parse(model, {"max_depht": 3})
    with pytest.raises(InputError, match="must be a number"):
        parse(model, {"reg_lambda": "big"})


def test_a_model_of_an_array_takes_tables_of_any_names():
    table, score = make_table(7)
    model = make_model("reg:squarederror").fit(table[["x", "k"]].to_numpy(), score)
    assert parse(model).feature_names is None
    np.testing.assert_array_equal(
        parse(model).features(table[["x", "k"]]),
        parse(model).features(table[["x", "k"]].to_numpy()),
    )
    numbered = make_model("reg:squarederror").fit(pd.DataFrame(table[["x", "k"]].to_numpy()), score)
    assert parse(numbered).feature_names == ["0", "1"]
    check_parity(numbered, pd.DataFrame(table[["x", "k"]].to_numpy()))
