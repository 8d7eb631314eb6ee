"""Rows for CatBoost in every form users hold them, and training the same recipe again."""

import catboost
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse

from influence.errors import InputError
from tests.tree_influence.adapters.catboost_oracle import (
    TASKS,
    rows,
    rows_with_categories,
    trained,
)
from tree_influence import LeafInfluence, trace
from tree_influence.adapters import parse


def arrow_type(kind):
    return pd.ArrowDtype(kind)


class TestNumbers:
    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
    def test_sparse(self, task, form):
        """What a sparse matrix leaves out is 0, in training and in prediction."""
        dense, y = rows(0, 150, task, missing=0)
        dense = dense.where(np.random.default_rng(0).random((150, 3)) < 0.5, 0).to_numpy()
        X = form(dense)
        model = trained(X, y, depth=3)
        run = trace(model, X, y)
        assert run.replay.error.largest <= 1e-7
        np.testing.assert_array_equal(run.leaves, trace(model, dense, y).leaves)
        np.testing.assert_array_equal(
            run.adapter.ensemble.labels(run.leaves), model.calc_leaf_indexes(X)
        )
        again = run.adapter.refit(X, y, None)
        features = run.adapter.features(X)
        np.testing.assert_array_equal(
            again.library_raw(features), run.adapter.library_raw(features)
        )

    def test_sparse_with_missing_values_and_stored_zeros(self):
        dense, y = rows(1, 120, "regression", missing=0.2)
        X = scipy.sparse.csr_matrix(dense.to_numpy())
        X.data[:5] = 0
        model = trained(X, y)
        adapter = parse(model)
        raw = adapter.ensemble.raw(adapter.leaves(adapter.features(X)))[:, 0]
        np.testing.assert_allclose(raw, model.predict(X), rtol=1e-10)

    @pytest.mark.parametrize(
        "form",
        {
            "float32": lambda X: X.astype(np.float32),
            "nullable": lambda X: X.astype("Float64"),
            "nullable float32": lambda X: X.astype("Float32"),
            "Arrow": lambda X: X.astype(arrow_type(pa.float64())),
            "an Arrow table": lambda X: pa.Table.from_pandas(X, preserve_index=False),
        }.items(),
        ids=lambda form: form[0],
    )
    def test_tables(self, form):
        X, y = rows(2, 120, "regression")
        run = trace(trained(X, y), form[1](X), y)
        assert run.replay.error.largest <= 1e-9
        np.testing.assert_array_equal(run.leaves, trace(trained(X, y), X, y).leaves)
        values = LeafInfluence().fit(run).explain(form[1](X[:3]), y[:3], progress=False).values
        expected = LeafInfluence().fit(run).explain(X[:3], y[:3], progress=False).values
        np.testing.assert_array_equal(values, expected)

    @pytest.mark.parametrize(
        "dtype",
        [np.int8, np.int64, np.uint32, bool, "Int64", "boolean", arrow_type(pa.int16()),
         arrow_type(pa.bool_())],
        ids=str,
    )  # fmt: skip
    def test_whole_numbers(self, dtype):
        X, y = rows(3, 120, "regression", missing=0)
        whole = (X > 0) if "bool" in str(dtype) else (10 * X).round().abs()
        whole = whole.astype(dtype)
        model = trained(whole, y)
        run = trace(model, whole, y)
        assert run.replay.error.largest <= 1e-9
        raw = np.asarray(run.predictions(whole), dtype=float)
        np.testing.assert_allclose(raw, model.predict(whole), rtol=1e-9)
        assert run.adapter.features(whole).dtype == np.float32

    def test_missing_whole_numbers(self):
        X, y = rows(4, 120, "regression")
        for dtype in ("Int64", arrow_type(pa.int32())):
            whole = (10 * X).round().astype("Int64").astype(dtype)
            model = trained((10 * X).round(), y)
            raw = np.asarray(trace(model, whole, y).predictions(whole), dtype=float)
            np.testing.assert_allclose(raw, model.predict((10 * X).round()), rtol=1e-9)

    def test_float32_is_not_copied(self):
        X, y = rows(5, 60, "regression")
        bare = X.to_numpy(np.float32)
        adapter = parse(trained(bare, y))
        assert np.shares_memory(adapter.features(bare), bare)
        frame = pd.DataFrame(bare, copy=False)
        assert np.shares_memory(adapter.features(frame), bare)


CATEGORIES = {
    "Arrow strings": lambda X: X.astype({"colour": arrow_type(pa.string())}),
    "Arrow large strings": lambda X: X.astype({"colour": arrow_type(pa.large_string())}),
    "nullable strings": lambda X: X.astype({"colour": "string"}),
    "an Arrow dictionary": lambda X: X.assign(
        colour=pd.array(
            pa.array(X["colour"].to_list()).dictionary_encode(),
            dtype=arrow_type(pa.dictionary(pa.int32(), pa.string())),
        )
    ),
    "an Arrow table": lambda X: pa.Table.from_pandas(X, preserve_index=False),
    "Arrow whole numbers": lambda X: X.astype({"store": arrow_type(pa.int64())}),
    "nullable whole numbers": lambda X: X.astype({"store": "Int16"}),
    "pandas categories": lambda X: X.astype({"colour": "category", "store": "category"}),
    "objects": lambda X: X.to_numpy(dtype=object),
}


class TestCategories:
    @pytest.mark.parametrize("form", CATEGORIES)
    def test_by_value(self, form):
        X, y = rows_with_categories(6, 150, "binary")
        model = trained(X, y, ["colour", "store"], one_hot_max_size=10, depth=3)
        run = trace(model, CATEGORIES[form](X), y)
        assert run.replay.error.largest <= 1e-9
        np.testing.assert_array_equal(run.leaves, trace(model, X, y).leaves)

    @pytest.mark.parametrize("form", ["Arrow strings", "an Arrow dictionary", "nullable strings"])
    def test_trained_on(self, form):
        X, y = rows_with_categories(7, 150, "binary")
        table = CATEGORIES[form](X)
        model = trained(table, y, ["colour", "store"], one_hot_max_size=10)
        run = trace(model, table, y)
        assert run.replay.error.largest <= 1e-9
        again = run.adapter.refit(table, y, None)
        np.testing.assert_array_equal(
            again.library_raw(again.features(X)), run.adapter.library_raw(run.adapter.features(X))
        )
        holed = table.copy()
        holed.loc[3, "colour"] = pd.NA
        with pytest.raises(InputError, match=r"column 'colour', but row 3 is missing"):
            run.adapter.features(holed)

    def test_in_a_sparse_matrix(self):
        rng = np.random.default_rng(8)
        dense = np.column_stack([rng.integers(0, 3, 120), rng.normal(size=120).round(1)])
        y = (dense[:, 0] == 1) + dense[:, 1]
        X = scipy.sparse.csr_matrix(dense)
        frame = pd.DataFrame({0: dense[:, 0].astype(int), 1: dense[:, 1]})
        settings = {"iterations": 4, "depth": 2, "verbose": False, "one_hot_max_size": 5}
        model = catboost.CatBoost({**settings, "allow_writing_files": False})
        model.fit(catboost.Pool(frame, y, cat_features=[0]))
        run = trace(model, X, y)
        assert run.replay.error.largest <= 1e-9
        np.testing.assert_array_equal(run.leaves, trace(model, frame, y).leaves)


AGAIN = {
    "has_time": {"has_time": True},
    "langevin": {"langevin": True, "diffusion_temperature": 1000},
    "shrinkage": {"model_shrink_rate": 0.1, "model_shrink_mode": "Decreasing"},
    "penalties": {
        "feature_weights": {"x0": 0.3}, "first_feature_use_penalties": {"x1": 2.0},
        "per_object_feature_penalties": {"x2": 0.01}, "penalties_coefficient": 1.5,
    },
    "quantization": {"per_float_feature_quantization": ["0:border_count=4"], "border_count": 20},
    "ignored": {"ignored_features": ["x1"]},
    "sampling": {"sampling_frequency": "PerTreeLevel", "rsm": 0.6, "mvs_reg": 2.0},
    "scores": {"score_function": "L2", "random_strength": 4, "random_score_type": "Gumbel"},
    "permutations": {"fold_permutation_block": 3, "boosting_type": "Ordered"},
    "folds": {"fold_len_multiplier": 1.3, "boosting_type": "Ordered"},
    "history": {"approx_on_full_history": True, "boosting_type": "Ordered"},
    "depthwise": {"grow_policy": "Depthwise", "min_data_in_leaf": 9},
    "gradient": {"leaf_estimation_method": "Gradient", "leaf_estimation_iterations": 3},
    "no backtracking": {"leaf_estimation_backtracking": "No", "leaf_estimation_iterations": 3},
    "huber": {"loss_function": "Huber:delta=0.4"},
    "tweedie": {"loss_function": "Tweedie:variance_power=1.3"},
    "expectile": {"loss_function": "Expectile:alpha=0.3"},
    "start": {"boost_from_average": False},
}  # fmt: skip


@pytest.mark.parametrize("setting", AGAIN)
@pytest.mark.parametrize("saved", [False, True])
def test_the_same_rows_give_the_same_model(tmp_path, setting, saved):
    X, y = rows(9, 200, "regression")
    y = np.abs(y) if setting == "tweedie" else y
    weight = np.random.default_rng(0).random(200)
    model = trained(X, y, sample_weight=weight, depth=3, **AGAIN[setting])
    if saved:
        model.save_model(str(tmp_path / "model.cbm"))
        model = catboost.CatBoost().load_model(str(tmp_path / "model.cbm"))
    adapter = parse(model)
    again = adapter.refit(X, y, weight)
    features = adapter.features(X)
    np.testing.assert_array_equal(
        again.library_raw(features), adapter.library_raw(features), "a setting was lost"
    )


@pytest.mark.parametrize(
    "params",
    [
        {"target_border": 0.3, "loss_function": "Logloss"},
        {"simple_ctr": ["Borders:TargetBorderCount=2"], "max_ctr_complexity": 1},
        {"combinations_ctr": ["Counter"], "counter_calc_method": "Full"},
        {"one_hot_max_size": 5, "model_size_reg": 3},
        {"per_feature_ctr": ["0:Buckets:Prior=0.5"], "ctr_leaf_count_limit": 3},
    ],
    ids=lambda params: next(iter(params)),
)
def test_settings_of_categories_are_kept(params):
    X, y = rows_with_categories(10, 200, "regression")
    settings = {"iterations": 6, "depth": 3, "verbose": False, "allow_writing_files": False}
    pool = catboost.Pool(X, y, cat_features=["colour", "store"])
    model = catboost.CatBoost({**settings, "thread_count": 1, **params}).fit(pool)
    adapter = parse(model)
    again = adapter.refit(X, y, None)
    features = adapter.features(X)
    np.testing.assert_array_equal(again.library_raw(features), adapter.library_raw(features))
