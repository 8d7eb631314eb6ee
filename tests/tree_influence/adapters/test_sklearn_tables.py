"""Tables in every form users hold them, and the earlier steps of Pipelines."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_array, csr_matrix
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from influence import Without
from influence.errors import InputError
from tests.tree_influence.adapters.sklearn_oracle import check_parity, decision, estimator, rows
from tree_influence import LeafInfluence, retrainer, trace
from tree_influence.adapters import parse
from tree_influence.rows import plain

KINDS = ["gb", "hist", "forest"]


def numbers(n=120, seed=0):
    """Columns that every dtype below holds: whole numbers, halves, and yes or no."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "whole": rng.integers(-5, 6, n),
            "half": rng.integers(-20, 20, n) / 2,
            "yes": rng.random(n) < 0.5,
        }
    )
    return frame, frame["half"] + 2 * frame["yes"] * frame["whole"] + rng.normal(size=n)


def arrow_dtypes(frame):
    pa = pytest.importorskip("pyarrow")
    types = {"whole": pa.int32(), "half": pa.float64(), "yes": pa.bool_()}
    return frame.astype({name: pd.ArrowDtype(kind) for name, kind in types.items()})


def arrow(frame):
    return pytest.importorskip("pyarrow").Table.from_pandas(frame, preserve_index=False)


def polars(frame):
    return pytest.importorskip("polars").from_pandas(frame)


FORMS = {
    "frame": lambda frame: frame,
    "nullable": lambda f: f.astype({"whole": "Int64", "half": "Float64", "yes": "boolean"}),
    "small": lambda f: f.astype({"whole": "int8", "half": "float32"}),
    "objects": lambda frame: frame.astype(object),
    "Arrow dtypes": arrow_dtypes,
    "Arrow": arrow,
    "polars": polars,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_dtypes(kind, form):
    frame, y = numbers()
    model = estimator(kind, "regression", random_state=0).fit(frame.astype(float), y)
    adapter = parse(model)
    expected = adapter.features(frame.astype(float))
    table = FORMS[form](frame)
    np.testing.assert_array_equal(adapter.features(plain(table)), expected)
    run = trace(model, table, y.to_numpy())
    np.testing.assert_allclose(run.predictions(table), model.predict(frame.astype(float)))
    assert run.adapter.feature_names == ["whole", "half", "yes"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.int16, bool, object, np.float16])
def test_arrays(kind, dtype):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2 if dtype is bool else 9, (90, 3)).astype(dtype)
    y = X[:, 0].astype(float) + rng.normal(size=90)
    model = estimator(kind, "regression", random_state=0).fit(X, y)
    check_parity(model, X)
    trace(model, X, y)


def known_to_sklearn(model):
    if not hasattr(model, "feature_names_in_"):
        pytest.skip("scikit-learn before 1.9 takes polars 2 for a bare array")


@pytest.mark.parametrize("kind", KINDS)
def test_trained_on_polars(kind):
    polars = pytest.importorskip("polars")
    frame, y = numbers()
    table = polars.from_pandas(frame)
    model = estimator(kind, "regression", random_state=0).fit(table, y)
    known_to_sklearn(model)
    run = trace(model, table, y.to_numpy())
    np.testing.assert_allclose(run.predictions(frame), model.predict(table))
    with pytest.raises(InputError, match="at position 0"):
        run.predictions(table.select("half", "whole", "yes"))


def test_categories_of_polars():
    polars = pytest.importorskip("polars")
    X, y = rows(5, 200, "regression", categories=4)
    frame = X.drop(columns="number")
    table = polars.from_pandas(frame)
    if not hasattr(table, "__dataframe__"):
        known_to_sklearn(estimator("hist", "regression").fit(table.drop("word"), y))
    model = estimator("hist", "regression", max_iter=4).fit(table, y)
    assert model.is_categorical_ is not None
    run = trace(model, table, y)
    np.testing.assert_allclose(run.predictions(frame), model.predict(table))
    assert run.replay.error.largest <= 1e-4


def test_categories_of_arrow():
    pa = pytest.importorskip("pyarrow")
    X, y = rows(5, 200, "regression", categories=4, missing=0.1)
    frame = X.drop(columns="number")
    model = estimator("hist", "regression", max_iter=4).fit(frame, y)
    expected = model.predict(frame)
    run = trace(model, pa.Table.from_pandas(frame, preserve_index=False), y)
    np.testing.assert_allclose(run.predictions(frame), expected)
    kind = pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))
    encoded = frame.assign(word=frame["word"].astype(object).astype(kind))
    np.testing.assert_allclose(run.predictions(encoded), expected)


@pytest.mark.parametrize("kind", ["gb", "forest"])
@pytest.mark.parametrize("task", ["regression", "multiclass"])
@pytest.mark.parametrize("form", [csr_array, csr_matrix, csc_matrix])
def test_sparse_rows(kind, task, form):
    X, y = rows(5, 150, task)
    dense = X.to_numpy().copy()
    dense[np.random.default_rng(0).random(dense.shape) < 0.5] = 0
    dense[0, 0] = -0.0
    sparse = form(dense)
    model = estimator(kind, task, n_estimators=5, random_state=0).fit(sparse, y)
    adapter = parse(model)
    np.testing.assert_array_equal(adapter.features(sparse), dense.astype(np.float32))
    run = trace(model, sparse, y)
    for queries in (sparse, dense):
        found, expected = run.predictions(queries), model.predict(queries)
        if task == "regression":
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        else:
            np.testing.assert_array_equal(found, expected)
    assert np.isfinite(retrainer(run, dense, y)(Without([3]))).all()
    if kind == "gb":
        assert run.replay.error.largest <= 1e-6
    with pytest.raises(InputError, match="3 columns, got 2"):
        adapter.features(sparse.tocsr()[:, :2])


def test_refits_keep_sparse_rows_sparse(monkeypatch):
    places = np.arange(5, dtype=np.int32)
    X = csr_array((np.ones(5), (places, places)), shape=(40, 300))
    model = GradientBoostingRegressor(n_estimators=1, init="zero").fit(X, np.arange(40))
    adapter = parse(model)

    def refuse(self, *args, **kwargs):
        raise AssertionError("a refit made a dense copy of sparse rows")

    monkeypatch.setattr(csr_array, "toarray", refuse)
    again = adapter.refit(X, np.arange(40.0), None)
    np.testing.assert_array_equal(again.ensemble.leaf_value, adapter.ensemble.leaf_value)


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_columns_of_a_frame(kind):
    X, y = rows(5, 90, "regression")
    frame = X.mask(X.abs() < 0.5, 0.0).astype(pd.SparseDtype("float64", 0.0))
    dense = frame.sparse.to_dense()
    model = estimator(kind, "regression", random_state=0).fit(dense, y)
    adapter = parse(model)
    np.testing.assert_array_equal(adapter.features(frame), adapter.features(dense))


def columns(sparse, passthrough=True):
    return ColumnTransformer(
        [
            ("word", OneHotEncoder(handle_unknown="ignore", sparse_output=sparse), ["word"]),
            ("rest", "passthrough" if passthrough else SimpleImputer(), ["x0", "x1", "x2"]),
        ],
        sparse_threshold=1.0 if sparse else 0.0,
    )


def own_steps():
    return {
        "dense": [columns(False)],
        "sparse": [columns(True)],
        "pandas": [columns(False).set_output(transform="pandas")],
        "nothing": [columns(False), "passthrough"],
        "function": [columns(False), FunctionTransformer(np.tanh)],
        "nested": [make_pipeline(columns(False, passthrough=False), StandardScaler())],
        "last nested": [columns(False)],
    }


@pytest.mark.parametrize("name", own_steps())
@pytest.mark.parametrize("cached", [False, True])
def test_pipelines(name, cached, tmp_path):
    X, y = rows(13, 150, "binary", categories=4)
    X = X.drop(columns="number")
    steps = [(f"step{i}", step) for i, step in enumerate(own_steps()[name])]
    last = GradientBoostingClassifier(n_estimators=4, random_state=0)
    if name == "last nested":
        last = make_pipeline(StandardScaler(), last)
    memory = str(tmp_path / "cache") if cached else None
    model = Pipeline([*steps, ("gb", last)], memory=memory).fit(X, y)
    run = trace(model, X, y)
    assert run.replay.error.largest <= 1e-6
    np.testing.assert_array_equal(run.predictions(X), model.predict(X))
    assert LeafInfluence().fit(run).explain(X, y).values.shape == (150, 150)
    truth = (y == "yes") + 0.0

    def loss(fitted):
        raw = decision(fitted, X)[:, 0]
        return np.logaddexp(0, raw) - truth * raw

    expected = loss(clone(model).fit(X.iloc[1:], y[1:])) - loss(model)
    np.testing.assert_allclose(retrainer(run, X, y)(Without([0])), expected, atol=1e-9)
