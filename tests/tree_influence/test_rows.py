"""Rows in every form users hold them are the same rows."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.pipeline import FunctionTransformer, Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from influence.errors import InputError
from tests.tree_influence import models
from tests.tree_influence.adapters.xgboost_oracle import KNOWS_NAMES
from tree_influence import BoostIn, LeafInfluence, rows, trace

X = np.arange(24.0).reshape(8, 3)
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])


def arrow(frame):
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False)


def polars(frame):
    return pytest.importorskip("polars").from_pandas(frame)


def pool(frame):
    return pytest.importorskip("catboost").Pool(frame)


FORMS = {
    "array": lambda frame: frame.to_numpy(),
    "list": lambda frame: frame.to_numpy().tolist(),
    "pandas": lambda frame: frame,
    "arrow": arrow,
    "polars": polars,
    "csr": lambda frame: scipy.sparse.csr_matrix(frame.to_numpy()),
    "csc": lambda frame: scipy.sparse.csc_matrix(frame.to_numpy()),
    "coo array": lambda frame: scipy.sparse.coo_array(frame.to_numpy()),
    "catboost pool": pool,
}


def dense(taken):
    if scipy.sparse.issparse(taken):
        return taken.toarray()
    if type(taken).__module__.startswith("catboost"):
        return taken.get_features()
    return np.asarray(rows.plain(taken))


@pytest.mark.parametrize("form", FORMS)
@given(chosen=st.lists(st.integers(0, 7), min_size=1, max_size=8), start=st.integers(0, 6))
def test_rows_are_taken_alike(form, chosen, start):
    held = rows.indexable(FORMS[form](FRAME))
    assert rows.shape(held) == (8, 3)
    picked = np.array(chosen)
    np.testing.assert_array_equal(dense(rows.take(held, picked)), X[picked])
    np.testing.assert_array_equal(dense(rows.take(held, slice(start, 8))), X[start:])


@pytest.mark.parametrize("form", FORMS)
def test_blocks_cover_all_rows_and_are_bounded(form, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_BYTES", 8 * 3 * 3)
    held = rows.indexable(FORMS[form](FRAME))
    found = list(rows.in_blocks(held))
    assert [(one.start, one.stop) for one in found] == [(0, 3), (3, 6), (6, 8)]


@pytest.mark.parametrize(
    "wrong", [np.zeros(3), pd.Series([1.0]), np.zeros((2, 2, 2)), "text", None]
)
def test_what_is_no_table_is_refused(wrong):
    with pytest.raises(InputError, match="two dimensions"):
        rows.shape(rows.indexable(wrong))


@pytest.fixture(scope="module", params=models.LIBRARIES)
def fitted(request):
    return models.fit(request.param, "logistic", n_train=60)


def seen(model, monkeypatch):
    """Numbers of rows of the blocks the adapter is given."""
    sizes = []
    adapter = type(trace(model.model, model.X, model.y, model.weight).adapter)
    original = adapter.features

    def features(self, X):
        sizes.append(X.shape[0])
        return original(self, X)

    monkeypatch.setattr(adapter, "features", features)
    return sizes


def test_small_blocks_give_the_same_answers(fitted, monkeypatch):
    """And no adapter ever sees the whole table."""
    whole = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    expected = LeafInfluence().fit(whole).explain(fitted.X_test, fitted.y_test).values
    sizes = seen(fitted, monkeypatch)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 8 * 4 * 7)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    np.testing.assert_array_equal(run.leaves, whole.leaves)
    assert run.fingerprint == whole.fingerprint
    found = LeafInfluence().fit(run).explain(fitted.X_test, fitted.y_test).values
    np.testing.assert_array_equal(found, expected)
    assert max(sizes) == 7 and sum(sizes) >= 66


def with_towns(n=60):
    """Codes of the towns differ from block to block where each block counts its own."""
    rng = np.random.default_rng(2)
    town = rng.choice(["Ulm", "Rom", "Bonn", "Bern"], n)
    town[:20] = np.sort(town[:20])
    table = pd.DataFrame({"x": rng.normal(size=n), "town": town})
    y = (table["x"] + (town == "Rom") - (town == "Bern") > 0.2).astype(int)
    return table, y.to_numpy()


def categorical_forms():
    """The table of towns as users of each kind of table hold its categories."""

    def in_pandas(table):
        return table.assign(town=table["town"].astype("category"))

    def in_arrow(table):
        import pyarrow as pa

        parts = [
            pa.table({"x": one["x"], "town": pa.array(one["town"]).dictionary_encode()})
            for one in (table[:25], table[25:])
        ]
        return pa.concat_tables(parts)

    def in_polars(table):
        library = pytest.importorskip("polars")
        return library.from_pandas(table).with_columns(
            library.col("town").cast(library.Categorical)
        )

    def as_objects(table):
        return table.assign(town=table["town"].astype(object).where(np.arange(len(table)) < 55))

    return {"pandas": in_pandas, "arrow": in_arrow, "polars": in_polars, "objects": as_objects}


@pytest.mark.parametrize("form", ["pandas", "arrow", "polars", "objects"])
@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost", "sklearn_hist"])
def test_categories_do_not_depend_on_the_blocks(library, form, monkeypatch):
    table, y = with_towns()
    trained = table.assign(town=table["town"].astype("category"))
    options = {"lightgbm": {"min_data_per_group": 2}, "xgboost": {"enable_categorical": True},
               "catboost": {"cat_features": ["town"], "one_hot_max_size": 9},
               "sklearn_hist": {"categorical_features": ["town"]}}[library]  # fmt: skip
    model = models.make(library, "logistic", 3).set_params(**options).fit(trained, y)
    run = trace(model, trained, y)
    asked = categorical_forms()[form](table)
    if library == "catboost" and form == "objects":
        pytest.skip("CatBoost takes no missing categories")
    if library == "xgboost" and form == "objects" and not KNOWS_NAMES:
        pytest.skip("before 3.1 a model of XGBoost knows codes only")
    whole = run.queries(asked, y)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 8 * 2 * 5)
    np.testing.assert_array_equal(run.queries(asked, y).leaves, whole.leaves)
    if form != "objects":
        np.testing.assert_array_equal(whole.leaves, run.leaves)


def test_a_bad_value_is_counted_from_its_block(monkeypatch):
    case = models.fit("sklearn_gb", "logistic", n_train=60)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 8 * 4 * 7)
    bad = case.X.copy()
    bad[23, 1] = np.inf
    with pytest.raises(InputError, match=r"row 2 .* counted from row 21"):
        trace(case.model, bad, case.y, case.weight)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "sklearn_hist"])
@pytest.mark.parametrize("form", ["arrow", "polars", "float32", "nullable"])
def test_tables_of_other_libraries(library, form):
    table, y, queries, y_test = models.make_data("logistic", n_train=60)
    frame = pd.DataFrame(table, columns=["a", "b", "c", "d"])
    asked = pd.DataFrame(queries, columns=frame.columns)
    model = models.make(library, "logistic", 3).fit(frame, y)
    convert = {
        "arrow": arrow, "polars": polars, "float32": lambda one: one.astype(np.float32),
        "nullable": lambda one: one.astype("Float64"),
    }[form]  # fmt: skip
    expected = BoostIn().fit(model, frame, y).explain(asked, y_test).values
    found = BoostIn().fit(model, convert(frame), y).explain(convert(asked), y_test).values
    np.testing.assert_array_equal(found, expected)


def test_targets_and_weights_of_other_libraries():
    case = models.fit("lightgbm", "logistic", n_train=60)
    expected = trace(case.model, case.X, case.y, case.weight).fingerprint
    y, weight = pd.Series(case.y), pd.Series(case.weight)
    polars_library = pytest.importorskip("polars")
    for target, given_weight in (
        (y.astype("Int64"), weight.astype("Float64")),
        (polars_library.Series(case.y), polars_library.Series(case.weight)),
        (arrow(y.to_frame("y"))["y"], arrow(weight.to_frame("w"))["w"]),
        (case.y.astype(bool), case.weight.tolist()),
    ):
        assert trace(case.model, case.X, target, given_weight).fingerprint == expected


def mixed_table(n=80):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=n), "town": rng.choice(["Ulm", "Rom", "Bonn"], n)})
    y = (frame["x"] + (frame["town"] == "Rom") + 0.3 * rng.normal(size=n) > 0.3).astype(int)
    return frame, y


@pytest.mark.parametrize("sparse", [False, True])
def test_pipelines_of_column_transformers(sparse):
    frame, y = mixed_table()
    encode = ColumnTransformer(
        [("town", OneHotEncoder(sparse_output=sparse), ["town"])], remainder="passthrough",
        sparse_threshold=1.0 if sparse else 0.0,
    )  # fmt: skip
    model = make_pipeline(encode, GradientBoostingClassifier(n_estimators=4, random_state=0))
    model.fit(frame, y)
    assert scipy.sparse.issparse(model[0].transform(frame)) == sparse
    through = LeafInfluence().fit(trace(model, frame, y)).explain(frame[:5], y[:5])
    inner = model[0].transform(frame)
    inner = inner.toarray() if sparse else inner
    direct = LeafInfluence().fit(trace(model[-1], inner, y.to_numpy())).explain(inner[:5], y[:5])
    np.testing.assert_allclose(through.values, direct.values, rtol=1e-12)


def test_a_pipeline_within_a_pipeline():
    case = models.fit("sklearn_gb", "logistic", n_train=60, weighted=False)
    scaled = StandardScaler().fit_transform(case.X)
    inner = Pipeline([("again", StandardScaler()), ("model", case.model)])
    nested = Pipeline([("scale", StandardScaler()), ("rest", inner)]).fit(case.X, case.y)
    flat = trace(nested[-1][-1], StandardScaler().fit_transform(scaled), case.y)
    found = trace(nested, case.X, case.y)
    np.testing.assert_array_equal(found.leaves, flat.leaves)
    values = LeafInfluence().fit(found).explain(case.X_test, case.y_test).values
    assert np.isfinite(values).all()


def test_steps_that_drop_rows_are_refused():
    case = models.fit("sklearn_gb", "logistic", n_train=60, weighted=False)
    halved = make_pipeline(FunctionTransformer(lambda rows: rows[::2]), case.model)
    with pytest.raises(InputError, match="60 became 30"):
        trace(halved, case.X, case.y)
