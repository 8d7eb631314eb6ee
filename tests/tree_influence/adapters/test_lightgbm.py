"""LightGBM models read as the library itself predicts: rows, tables, files, refits, refusals."""

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influence.errors import (
    InputError,
    NotFittedError,
    StorageError,
    UnsupportedModelError,
)
from tests.tree_influence.adapters.lightgbm_rows import (
    LABELS,
    SMALL,
    TASKS,
    check_parity,
    estimator,
    numbers,
    positions,
    table,
)
from tree_influence import adapters
from tree_influence.adapters import parse
from tree_influence.adapters.lightgbm import load


@given(
    task=st.sampled_from(TASKS), seed=st.integers(0, 99), missing=st.sampled_from([0, 0.1, 0.6]),
    use_missing=st.booleans(), zero_as_missing=st.booleans(), max_cat_to_onehot=st.integers(1, 60),
)  # fmt: skip
def test_rows_fall_where_the_library_says(task, seed, missing, **params):
    X, y = numbers(task, seed, missing=missing)
    model = estimator(task, **params).fit(X, y, categorical_feature=[1])
    check_parity(model, X)
    rng = np.random.default_rng(seed + 1)
    thresholds = parse(model).ensemble.threshold
    extremes = [np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0, -0.0, 1e-36, -1e-40, 1e-30]
    near = np.concatenate([thresholds, np.nextafter(thresholds, np.inf), extremes])
    fresh = rng.choice(near, size=(150, 4))
    fresh[:, 1] = rng.choice([*range(45), np.nan, -1, -0.5, 2.7, 1e9, 1e12, np.inf], 150)
    check_parity(model, fresh)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool, object])
def test_arrays_of_any_number_type(dtype):
    X, y = numbers("binary", missing=0)
    X = X.astype(dtype)
    model = estimator("binary").fit(X.astype(np.float64), y)
    features = parse(model).features(X)
    np.testing.assert_array_equal(features, X.astype(np.float32).astype(np.float64))
    assert features.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.int64, object, np.longdouble])
def test_arrays_that_are_no_floats_are_rounded_to_float32(dtype):
    """As LightGBM does on the way in, in training and in prediction; columns of tables keep 64."""
    whole = np.random.default_rng(0).permutation(400)[:, None] + 2**24
    X = whole.astype(dtype)
    y = np.sin(whole[:, 0])
    model = estimator("regression", max_bin=400, num_leaves=300, min_child_samples=1).fit(X, y)
    check_parity(model, X)
    assert (parse(model).features(X) != whole).any(), "the case this test is for"
    as_table = pd.DataFrame(whole)
    model = estimator("regression", max_bin=400, num_leaves=300, min_child_samples=1)
    check_parity(model.fit(as_table, y), as_table)


@given(task=st.sampled_from(TASKS), seed=st.integers(0, 99), missing=st.sampled_from([0, 0.2]))
def test_tables_of_categories(task, seed, missing):
    X, y = table(task, seed, missing=missing)
    model = estimator(task).fit(X, y)
    check_parity(model, X)
    fresh, _ = table(task, seed + 1, missing=0.3)
    for column, unseen in (("town", "nowhere"), ("zone", 15)):
        reordered = fresh[column].cat.add_categories(unseen).cat.categories[::-1]
        fresh[column] = fresh[column].cat.set_categories(reordered)
        fresh.loc[:5, column] = unseen
    check_parity(model, fresh)
    check_parity(model, fresh.iloc[[0]])


def test_tables_read_from_csv(tmp_path):
    """Categories are told by value: text and integers, the latter as floats where some miss."""
    X, y = table()
    model = estimator("regression").fit(X, y)
    X.to_csv(tmp_path / "rows.csv", index=False)
    read = pd.read_csv(tmp_path / "rows.csv")
    assert not any(isinstance(dtype, pd.CategoricalDtype) for dtype in read.dtypes)
    adapter = parse(model)
    np.testing.assert_array_equal(adapter.features(read), adapter.features(X))
    unseen = read.assign(town="nowhere", zone=15)
    features = adapter.features(unseen)
    assert np.isnan(features[:, 1:3]).all(), "an unseen category is missing, as in LightGBM"
    model.booster_.save_model(tmp_path / "model.txt")
    saved = parse(adapters.load(tmp_path / "model.txt"))
    np.testing.assert_array_equal(saved.features(read), adapter.features(X))


def test_categories_that_were_named_in_fit():
    """Columns of integers named as categorical_feature are not of pandas' category dtype."""
    X, y = table()
    X["zone"] = X["zone"].astype(float)
    model = estimator("regression").fit(X, y, categorical_feature=["zone", "town"])
    check_parity(model, X)
    adapter = parse(model)
    text = X.astype({"town": object, "grade": str})
    np.testing.assert_array_equal(adapter.features(text.where(X.notna())), adapter.features(X))
    with pytest.raises(InputError, match="2 columns of pandas' category dtype, got 1"):
        adapter.features(X.assign(grade=0))  # "zone" is no candidate: its codes went up to 50


def test_columns_are_checked():
    X, y = table()
    adapter = parse(estimator("regression").fit(X, y))
    assert adapter.feature_names == ["size_in_m", *X.columns[1:]]
    with pytest.raises(InputError, match="'zone' at position 2, got 'count'"):
        adapter.features(X[["size in m", "town", "count", "grade", "zone", "new"]])
    with pytest.raises(InputError, match="6 columns, got 5"):
        adapter.features(X.iloc[:, :5])
    with pytest.raises(InputError, match="6 columns, got 3"):
        adapter.features(np.zeros((2, 3)))
    with pytest.raises(InputError, match="two-dimensional"):
        adapter.features(np.zeros(6))
    with pytest.raises(InputError, match="two-dimensional array of numbers"):
        adapter.features(np.full((2, 6), "text"))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("size in m", "large", "4 that hold categories or text"),
        ("count", pd.Timestamp("2020-01-01"), "numbers in column 'count'"),
        ("count", 1j, "numbers in column 'count'"),
        ("town", 7, "'town' was trained with categories such as 'a'"),
        ("zone", "ten", "'zone' was trained with categories such as 0"),
    ],
)
def test_columns_of_another_type_are_refused(column, values, message):
    X, y = table()
    adapter = parse(estimator("regression").fit(X, y))
    with pytest.raises(InputError, match=message):
        adapter.features(X.assign(**{column: values}))


def test_models_without_names_take_any_names():
    X, y = numbers("regression")
    adapter = parse(estimator("regression").fit(X, y))
    assert adapter.feature_names is None
    frame = pd.DataFrame(X, columns=list("abcd"))
    np.testing.assert_array_equal(adapter.features(frame), X)
    with pytest.raises(InputError, match="0 columns of pandas' category"):
        adapter.features(frame.assign(b="text"))


@pytest.mark.parametrize("task", TASKS)
def test_estimators_boosters_and_files_agree(task, tmp_path):
    X, y = table(task)
    model = estimator(task, learning_rate=0.123456789, reg_lambda=1 / 3).fit(X, y)
    model.booster_.save_model(tmp_path / "model")
    loaded = adapters.load(tmp_path / "model")
    live, booster, saved = parse(model), parse(model.booster_), parse(loaded)
    check_parity(loaded, X)
    target = positions(task, y)
    if task == "regression":
        assert live.classes is None and saved.classes is None
    else:
        np.testing.assert_array_equal(live.classes, LABELS[task])
        np.testing.assert_array_equal(saved.classes, range(len(LABELS[task])))
    assert live.knows_labels == (task != "regression")
    assert not booster.knows_labels and not saved.knows_labels
    features, weight = live.features(X), np.ones(len(y))
    exact, six_digits = (
        one.recipe(one.leaves(features), target, weight) for one in (booster, saved)
    )
    assert exact.learning_rate[0] == 0.123456789
    assert exact.l2.min() == 1 / 3
    np.testing.assert_allclose(six_digits.learning_rate, 0.123456789, rtol=1e-5)
    given = parse(loaded, {"eta": 0.123456789, "lambda": 1 / 3})
    for name in ("learning_rate", "l2", "start", "folded"):
        np.testing.assert_array_equal(
            getattr(given.recipe(given.leaves(features), target, weight), name),
            getattr(exact, name),
            name,
        )


@pytest.mark.filterwarnings("ignore:The argument 'eval_set'")
def test_early_stopping_cuts_where_predict_stops():
    X, y = numbers("binary")
    held_out = numbers("binary", seed=1)
    stop = lgb.early_stopping(3, verbose=False)
    model = estimator("binary", num_iterations=200, learning_rate=0.5, early_stopping_rounds=3)
    model.fit(X, y, eval_set=[held_out])
    assert parse(model).ensemble.n_rounds == model.best_iteration_ < 200
    check_parity(model, X)
    rows, valid = lgb.Dataset(X, y == "yes"), lgb.Dataset(held_out[0], held_out[1] == "yes")
    booster = lgb.train(
        {**SMALL, "objective": "binary", "learning_rate": 0.5}, rows, 200, [valid],
        callbacks=[stop], keep_training_booster=True,
    )  # fmt: skip
    assert parse(booster).ensemble.n_rounds == booster.best_iteration < booster.num_trees()
    check_parity(booster, X)
    assert parse(model).refit(X, y, None).ensemble.n_rounds == model.best_iteration_


def test_random_forests_and_dart_can_be_read():
    X, y = numbers("multiclass")
    for boosting in ("rf", "dart"):
        model = estimator("multiclass", boosting_type=boosting, subsample=0.5, subsample_freq=1)
        check_parity(model.fit(X, y), X)


def test_single_classes_and_single_leaves():
    X, y = numbers("binary")
    one = estimator("binary").fit(X, np.full(len(y), "yes"))
    check_parity(one, X)
    np.testing.assert_array_equal(parse(one).classes, ["yes"])
    check_parity(estimator("regression").fit(X, np.full(len(y), 2.5)), X)
    check_parity(estimator("regression", n_estimators=1).fit(X, y == "yes"), X)


def test_models_that_cannot_be_read():
    X, y = numbers("regression")
    with pytest.raises(NotFittedError, match="LGBMRegressor"):
        parse(lgb.LGBMRegressor())
    with pytest.raises(NotFittedError, match="without trees"):
        parse(lgb.Booster({"verbose": -1}, lgb.Dataset(X, y)))
    with pytest.raises(UnsupportedModelError, match="linear_tree"):
        parse(estimator("regression", linear_tree=True).fit(X, y))
    with pytest.raises(UnsupportedModelError, match="Dataset"):
        parse(lgb.Dataset(X, y))


def test_damaged_files(tmp_path):
    X, y = table("binary")
    path = tmp_path / "model.txt"
    text = estimator("binary", n_estimators=3).fit(X, y).booster_.model_to_string()
    last_line = text.index("\npandas_categorical")
    cuts = [*range(0, last_line, 211), last_line - 4, last_line + 40, len(text) - 3]
    damaged = [text[:cut] for cut in cuts]
    damaged += [text.replace(old, new, 1) for old, new in (
        ("Tree=1", "Tree=7"), ("left_child=", "left_child=9"), ("leaf_value=", "leaf_value=0 "),
        ("max_feature_idx=5", "max_feature_idx=1"), ("threshold=", "threshold=x"),
        ("internal_count=", "internal_count=\n"), ("decision_type=", "decision_tipe="),
        ("feature_names=", "names="),
    )]  # fmt: skip
    damaged += ["", "tree\n", text.replace("\n", "\r\n")]
    for one in damaged:
        path.write_bytes(one.encode())
        with pytest.raises(StorageError, match=r"model\.txt"):
            load(path)
    path.write_bytes(b"tree\n\xff\xfe")
    with pytest.raises(StorageError):
        load(path)
    with pytest.raises(StorageError):
        load(tmp_path / "absent.txt")
    path.write_text(text)
    assert load(path).num_trees() == 3
