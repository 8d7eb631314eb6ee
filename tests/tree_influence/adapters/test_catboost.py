"""The CatBoost adapter: trees and columns against the library itself; files; refusals."""

from typing import Any

import catboost
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influence.errors import (
    InputError,
    MissingParameterError,
    NotFittedError,
    StorageError,
    UnsupportedModelError,
)
from tests.tree_influence.adapters.catboost_oracle import (
    TASKS,
    rows,
    rows_with_categories,
    targets,
    trained,
)
from tree_influence.adapters import load, parse

QUICK = settings(max_examples=25, deadline=None, derandomize=True)


def check_parity(model, X):
    adapter = parse(model)
    features = adapter.features(X)
    leaves = adapter.leaves(features)
    theirs = model.predict(X, prediction_type="RawFormulaVal").reshape(len(X), -1)
    np.testing.assert_allclose(
        adapter.ensemble.raw(leaves), theirs, rtol=1e-12, atol=1e-12, err_msg="leaf values or bias"
    )
    np.testing.assert_array_equal(adapter.library_raw(features), theirs)
    np.testing.assert_array_equal(
        adapter.ensemble.labels(leaves),
        model.calc_leaf_indexes(X),
        err_msg="comparison in float32, order of the bits, or missing values",
    )
    return adapter


class TestTrees:
    @QUICK
    @given(
        seed=st.integers(0, 10**6),
        task=st.sampled_from(TASKS),
        grow_policy=st.sampled_from(["SymmetricTree", "SymmetricTree", "Depthwise", "Lossguide"]),
        nan_mode=st.sampled_from(["Min", "Max"]),
        depth=st.integers(1, 7),
        named=st.booleans(),
    )
    def test_on_numbers(self, seed, task, grow_policy, nan_mode, depth, named):
        X, y = rows(seed, 150, task)
        params = {"grow_policy": grow_policy, "nan_mode": nan_mode, "depth": depth}
        model = trained(X if named else X.to_numpy(), y, **params)
        adapter = check_parity(model, X if named else X.to_numpy())
        assert (len(adapter.ensemble.feature) > 0) == (grow_policy == "SymmetricTree")
        borders = np.concatenate([[0.0], adapter.ensemble.threshold])
        extremes = [np.nan, np.inf, -np.inf, 1e300, -1e300, -3.5e38, 1e-45]
        at = np.concatenate([borders, np.nextafter(borders, np.inf), borders + 1e-9, extremes])
        check_parity(model, np.random.default_rng(seed).choice(at, size=(200, 3)))

    @QUICK
    @given(
        seed=st.integers(0, 10**6),
        task=st.sampled_from(TASKS),
        one_hot_max_size=st.sampled_from([2, 255]),
        grow_policy=st.sampled_from(["SymmetricTree", "Lossguide"]),
    )
    def test_on_categories_by_value(self, seed, task, one_hot_max_size, grow_policy):
        X, y = rows_with_categories(seed, 150, task)
        params = {"one_hot_max_size": one_hot_max_size, "grow_policy": grow_policy}
        model = trained(X, y, ["colour", "store"], **params)
        adapter = check_parity(model, X)
        check_parity(model, X.assign(colour="never seen", store=99))
        expected = adapter.leaves(adapter.features(X))
        shuffled = pd.CategoricalDtype(["unused", "odd one", "blue", "green", "red"])
        for same in (
            X.astype({"colour": object, "store": str}),
            X.astype({"colour": shuffled, "store": "category"}),
            X.astype({"store": float}),
            X.astype({"store": pd.CategoricalDtype([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])}),
            X.astype({"store": "Int64"}),
            X.to_numpy(dtype=object),
        ):
            found = adapter.leaves(adapter.features(same))
            np.testing.assert_array_equal(found, expected, err_msg="categories matched by position")

    def test_text_and_embeddings(self):
        rng = np.random.default_rng(0)
        X = pd.DataFrame({"x": rng.normal(size=120)})
        X["note"] = [" ".join(rng.choice(["good", "bad", "so", "la"], 5)) for _ in range(120)]
        X["vector"] = [list(row) for row in rng.normal(size=(120, 3))]
        y = targets(X["x"].to_numpy(), "binary")
        model = trained(X, y, text_features=["note"], embedding_features=["vector"])
        adapter = parse(model)
        features = adapter.features(X)
        np.testing.assert_allclose(
            adapter.ensemble.raw(adapter.leaves(features)), adapter.library_raw(features)
        )

    def test_small_models(self):
        X, y = rows(0, 60, "regression")
        check_parity(trained(X, y, iterations=1, depth=1), X)
        stumps = trained(X, y, grow_policy="Lossguide", min_data_in_leaf=100, iterations=3)
        assert check_parity(stumps, X).ensemble.leaf_counts.min() == 1, "a tree of one leaf"
        constant = trained(
            X, np.full(60, 2.5), allow_const_label=True, bootstrap_type="No", iterations=2
        )
        check_parity(constant, X)

    def test_trees_end_where_prediction_ends(self):
        X, y = rows(1, 300, "regression")
        held_out = (X[:60], -y[:60])
        for use_best_model, n_trees in ((True, None), (False, 40)):
            model = catboost.CatBoostRegressor(
                iterations=40, verbose=False, allow_writing_files=False, thread_count=1
            )
            model.fit(X, y, eval_set=held_out, use_best_model=use_best_model)
            adapter = check_parity(model, X)
            assert adapter.ensemble.n_trees == (n_trees or model.get_best_iteration() + 1)
            assert adapter.refit(X, y, None).ensemble.n_trees == adapter.ensemble.n_trees

    def test_ignored_columns_keep_their_place(self):
        X, y = rows(2, 200, "regression")
        assert 0 not in check_parity(trained(X, y, ignored_features=["x0"]), X).ensemble.feature


class TestColumns:
    def test_names_order_and_number_are_checked(self):
        X, y = rows(3, 80, "regression")
        adapter = parse(trained(X, y))
        assert adapter.feature_names == ["x0", "x1", "x2"]
        np.testing.assert_array_equal(adapter.features(X), adapter.features(X.to_numpy()))
        with pytest.raises(InputError, match="column 'x1' at position 1, got 'x2'"):
            adapter.features(X[["x0", "x2", "x1"]])
        with pytest.raises(InputError, match="3 columns, got 2"):
            adapter.features(X[["x0", "x1"]])
        with pytest.raises(InputError, match="shape"):
            adapter.features(X["x0"].to_numpy())
        nameless = parse(trained(X.to_numpy(), y))
        assert nameless.feature_names is None
        np.testing.assert_array_equal(nameless.features(X), adapter.features(X))

    def test_numbers_of_any_kind(self):
        X, y = rows(4, 80, "regression")
        adapter = parse(trained(X, y))
        expected = adapter.features(X)
        for same in (X.astype("Float64"), X.astype(object), X.astype(str), X.to_numpy(object)):
            np.testing.assert_array_equal(adapter.features(same), expected)
        for column in ("text", pd.Timestamp("2020-01-01"), 1j):
            with pytest.raises(InputError, match="column 'x1'"):
                adapter.features(X.assign(x1=column))

    def test_categories_the_library_refuses(self):
        X, y = rows_with_categories(5, 80, "binary")
        adapter = parse(trained(X, y, ["colour", "store"]))
        before = X.copy()
        for missing in (np.nan, None):
            holed = X.astype({"colour": object})
            holed.loc[7, "colour"] = missing
            with pytest.raises(InputError, match=r"column 'colour', but row 7 is missing.*fillna"):
                adapter.features(holed)
        with pytest.raises(InputError, match="column 'store', but row 0 is missing"):
            adapter.features(X.assign(store=np.nan))
        with pytest.raises(InputError, match="'store', got fractions"):
            adapter.features(X.assign(store=X["store"] + 0.5))
        with pytest.raises(InputError, match="refuses them"):
            adapter.features(X.assign(size="large"))
        adapter.features(X.astype({"store": float}))
        pd.testing.assert_frame_equal(X, before)

    @pytest.mark.parametrize(
        "labels", [[0, 1], [-1.0, 0.5], [False, True], ["a", "b"], ["a", "b", "c"]]
    )
    def test_classes_are_the_users_labels(self, labels):
        X, _ = rows(6, 90, "regression")
        y = np.array(labels)[np.arange(90) % len(labels)]
        model = catboost.CatBoostClassifier(iterations=5, verbose=False, allow_writing_files=False)
        adapter = parse(model.fit(X, y))
        assert adapter.classes is not None and list(adapter.classes) == labels
        again = adapter.refit(X, y, None)
        assert again.classes is not None and list(again.classes) == labels


class TestFiles:
    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("kind", ["cbm", "json"])
    def test_a_saved_model_knows_its_recipe(self, tmp_path, task, kind):
        X, y = rows_with_categories(7, 150, task)
        params: dict[str, Any] = {"auto_class_weights": "Balanced"} if task != "regression" else {}
        model = trained(X, y, ["colour", "store"], one_hot_max_size=10, **params)
        model.save_model(str(tmp_path / "model.bin"), format=kind)
        here, back = parse(model), parse(load(tmp_path / "model.bin"))
        assert back.feature_names == here.feature_names
        features = here.features(X)
        np.testing.assert_array_equal(back.leaves(back.features(X)), here.leaves(features))
        target = y
        if here.classes is not None and back.classes is not None:
            assert list(back.classes) == list(here.classes)
            target = np.searchsorted(here.classes.astype(str), y.astype(str)).astype(float)
        weight = here.row_weights(target, None)
        np.testing.assert_array_equal(back.row_weights(target, None), weight)
        ours, theirs = (a.recipe(a.leaves(features), target, weight) for a in (here, back))
        for name in ("learning_rate", "l2", "start", "n_steps", "loss"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        again = back.refit(X, y, None)
        np.testing.assert_array_equal(again.library_raw(features), here.library_raw(features))

    def test_files_that_are_none(self, tmp_path):
        X, y = rows(8, 60, "binary")
        model = trained(X, y)
        for kind in ("cbm", "json"):
            path = tmp_path / f"model.{kind}"
            model.save_model(str(path), format=kind)
            path.write_bytes(path.read_bytes()[:-40])
            with pytest.raises(StorageError, match="CatBoost"):
                load(path)
        other = tmp_path / "other.json"
        other.write_text('{"oblivious_trees": []}')
        with pytest.raises(StorageError, match="features_info"):
            load(other)

    def test_parameters_that_are_lost_must_be_given(self):
        X, y = rows(9, 100, "binary")
        model = trained(X, y)
        lost = catboost.sum_models([model])
        features = parse(lost).features(X)
        target, weight = (y == "yes").astype(float), np.ones(100)
        with pytest.raises(MissingParameterError, match="learning_rate"):
            parse(lost).recipe(parse(lost).leaves(features), target, weight)
        with pytest.raises(MissingParameterError, match="learning_rate"):
            parse(lost).refit(X, y, None)
        known = parse(model).recipe(parse(model).leaves(features), target, weight)
        given = {"loss_function": "Logloss", "l2_leaf_reg": 3, "leaf_estimation_iterations": 1}
        given["learning_rate"] = float(known.learning_rate[0])
        found = parse(lost, given).recipe(parse(lost, given).leaves(features), target, weight)
        np.testing.assert_array_equal(found.learning_rate, known.learning_rate)
        np.testing.assert_array_equal(found.l2, known.l2)


class TestRefit:
    @pytest.mark.parametrize(
        "params",
        [
            {},
            {"grow_policy": "Lossguide", "max_leaves": 6},
            {"boosting_type": "Ordered", "learning_rate": 0.2},
            {"bootstrap_type": "Bernoulli", "subsample": 0.7, "rsm": 0.7, "random_seed": 5},
            {"monotone_constraints": [1, 0, 0], "nan_mode": "Max"},
        ],
    )
    def test_the_same_rows_give_the_same_model(self, params):
        X, y = rows(10, 200, "regression")
        weight = np.random.default_rng(0).random(200)
        adapter = parse(trained(X, y, sample_weight=weight, **params))
        again = adapter.refit(X, y, weight)
        features = adapter.features(X)
        np.testing.assert_array_equal(
            again.library_raw(features), adapter.library_raw(features), "a setting was lost"
        )
        assert again.feature_names == adapter.feature_names
        assert not np.array_equal(
            adapter.refit(X, y, None).library_raw(features), adapter.library_raw(features)
        )

    def test_what_catboost_chose_by_itself_is_kept(self):
        """CatBoost picks a learning rate by the number of rows: not so when refitting."""
        X, y = rows(11, 300, "binary")
        adapter = parse(trained(X, y, iterations=20))
        ones = np.ones(100)
        target = (y[:100] == "yes").astype(float)
        rates = [
            each.recipe(each.leaves(each.features(X[:100])), target, ones).learning_rate
            for each in (adapter, adapter.refit(X[:100], y[:100], None))
        ]
        np.testing.assert_array_equal(rates[0], rates[1])

    def test_a_class_that_is_gone(self):
        X, y = rows(12, 90, "multiclass")
        adapter = parse(trained(X, y))
        with pytest.raises(InputError, match="'mid'"):
            adapter.refit(X[y != "mid"], y[y != "mid"], None)


class TestRefusals:
    def test_models_that_are_none(self):
        with pytest.raises(NotFittedError, match="not fitted"):
            parse(catboost.CatBoostClassifier())
        with pytest.raises(UnsupportedModelError, match="Pool"):
            parse(catboost.Pool([[1.0]]))

    def test_a_class_without_rows(self):
        X, y = rows(13, 90, "multiclass")
        with pytest.raises(UnsupportedModelError, match="class_names"):
            parse(trained(X, y, class_names=["low", "mid", "top", "best"]))
