"""`catboost.Pool` as training rows and as queries: labels, weights, baseline, retraining."""

import catboost
import numpy as np
import pandas as pd
import pytest

from influence.change import Relabelled, Reweighted, Without
from influence.errors import InputError, UnsupportedChangeError
from tests.tree_influence.adapters.catboost_oracle import (
    TASKS,
    rows,
    rows_with_categories,
    trained,
)
from tree_influence import BoostIn, LeafInfluence, trace
from tree_influence.adapters import parse
from tree_influence.retrain import retrainer

SETTINGS = {
    "iterations": 5, "depth": 2, "learning_rate": 0.3, "verbose": False, "thread_count": 1,
    "allow_writing_files": False,
}  # fmt: skip
LOSS = {"regression": "RMSE", "binary": "Logloss", "multiclass": "MultiClass"}


def fitted(pool, task, **params):
    return catboost.CatBoost({**SETTINGS, "loss_function": LOSS[task], **params}).fit(pool)


def explained(run, *queries):
    return LeafInfluence().fit(run).explain(*queries, progress=False).values


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_a_pool_of_numbers_is_the_table(task, weighted):
    X, y = rows(0, 150, task)
    weight = np.random.default_rng(0).uniform(0.5, 2, 150) if weighted else None
    pool = catboost.Pool(X, y, weight=weight)
    model = fitted(pool, task)
    run, table = trace(model, pool), trace(model, X, y, weight)
    assert run.replay.error.largest <= 1e-7
    np.testing.assert_array_equal(run.leaves, table.leaves)
    np.testing.assert_array_equal(run.weight, table.weight)
    assert (run.sample_weight is None) == (not weighted)
    asked = catboost.Pool(X[:6], y[:6])
    expected = explained(table, X[:6], y[:6])
    np.testing.assert_allclose(explained(run, asked), expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(run.predictions(asked) == run.predictions(X[:6]), True)


@pytest.mark.parametrize("named", [False, True])
def test_names_of_a_pool_are_checked(named):
    X, y = rows(1, 80, "regression")
    model = fitted(catboost.Pool(X if named else X.to_numpy(), y), "regression")
    trace(model, catboost.Pool(X.to_numpy(), y))
    other = catboost.Pool(X[["x1", "x0", "x2"]], y)
    if named:
        with pytest.raises(InputError, match="column 'x0' at position 0, got 'x1'"):
            trace(model, other)


class TestBaseline:
    @pytest.mark.parametrize("task", TASKS)
    def test_training_starts_from_it(self, task):
        X, y = rows(2, 150, task)
        n_outputs = 3 if task == "multiclass" else 1
        baseline = np.random.default_rng(0).normal(size=(150, n_outputs))
        pool = catboost.Pool(X, y, baseline=baseline)
        model = fitted(pool, task)
        run = trace(model, pool)
        assert run.replay.error.largest <= 1e-7, "the baseline is not where training started"
        raw = run.adapter.ensemble.raw(run.leaves) + run.offset
        theirs = model.predict(pool, prediction_type="RawFormulaVal").reshape(150, -1)
        np.testing.assert_allclose(raw, theirs, atol=1e-6)
        queries = run.queries(catboost.Pool(X[:7], y[:7], baseline=baseline[:7]))
        np.testing.assert_allclose(
            run.adapter.ensemble.raw(queries.leaves) + queries.offset, theirs[:7], atol=1e-6
        )

    def test_values_are_slopes(self):
        """Fixed-structure refits of squared error from the baseline, in plain numpy."""
        X, y = rows(3, 100, "regression")
        baseline = np.random.default_rng(0).normal(size=100)
        pool = catboost.Pool(X, y, baseline=baseline)
        run = trace(fitted(pool, "regression"), pool)
        values = explained(run, catboost.Pool(X[:3], y[:3], baseline=baseline[:3]))

        def losses(weight):
            F = baseline.astype(np.float32).astype(float)
            for t, leaf in enumerate(run.leaves):
                total = np.bincount(leaf, weight * (y - F), minlength=4)
                rate = run.replay.recipe.learning_rate[t]
                F = F + rate * (total / (np.bincount(leaf, weight, minlength=4) + 3))[leaf]
            return ((F - y) ** 2 / 2)[:3]

        for j in (0, 20):
            moved = [losses(1 + s * 1e-5 * (np.arange(100) == j)) for s in (1, -1)]
            expected = -(moved[0] - moved[1]) / 2e-5
            np.testing.assert_allclose(values[j], expected, rtol=1e-4, atol=1e-8)

    @pytest.mark.parametrize("task", TASKS)
    def test_retraining_starts_from_it(self, task):
        X, y = rows(4, 150, task)
        n_outputs = 3 if task == "multiclass" else 1
        baseline = np.random.default_rng(0).normal(size=(150, n_outputs))
        pool = catboost.Pool(X, y, baseline=baseline)
        run = trace(fitted(pool, task), pool)
        asked = catboost.Pool(X[:5], y[:5], baseline=baseline[:5])
        effects = retrainer(run, asked)(Without([3, 4]))
        kept = np.delete(np.arange(150), [3, 4])
        fewer = fitted(catboost.Pool(X.iloc[kept], y[kept], baseline=baseline[kept]), task)
        before, after = (
            model.predict(asked, prediction_type="RawFormulaVal").reshape(5, -1)
            for model in (fitted(pool, task), fewer)
        )
        target = run.queries(asked).target
        loss = run.adapter.loss()
        expected = loss.value(target, after) - loss.value(target, before)
        np.testing.assert_allclose(effects, expected, atol=1e-6)

    def test_of_another_width(self):
        X, y = rows(5, 90, "multiclass")
        model = fitted(catboost.Pool(X, y), "multiclass")
        with pytest.raises(InputError, match="baseline of 3 columns"):
            trace(model, catboost.Pool(X, y, baseline=np.zeros(90)))


def mixed(seed, n, task):
    """Numbers, categories, a text and an embedding."""
    X, y = rows_with_categories(seed, n, task)
    rng = np.random.default_rng(seed)
    X["note"] = [" ".join(rng.choice(["good", "bad", "so", "la"], 4)) for _ in range(n)]
    X["vector"] = [list(row) for row in rng.normal(size=(n, 3))]
    return X, y


COLUMNS = {
    "categories": {"cat_features": ["colour", "store"]},
    "text": {"text_features": ["note"]},
    "embedding": {"embedding_features": ["vector"]},
    "all": {
        "cat_features": ["colour", "store"],
        "text_features": ["note"],
        "embedding_features": ["vector"],
    },
}


def pool_of(kind, X, y, **more):
    columns = COLUMNS[kind]
    unused = {
        "colour": "cat_features", "store": "", "note": "text_features",
        "vector": "embedding_features",
    }  # fmt: skip
    used = {name for names in columns.values() for name in names}
    gone = [name for name, role in unused.items() if role and name not in used]
    return catboost.Pool(X.drop(columns=gone), y, **columns, **more)


class TestPoolsThatKeepTheirRows:
    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("kind", COLUMNS)
    def test_are_read_by_the_library(self, kind, task):
        X, y = mixed(0, 120, task)
        pool = pool_of(kind, X, y)
        model = fitted(pool, task, one_hot_max_size=2)
        run = trace(model, pool, allow_inexact=True)
        assert run.X is pool
        np.testing.assert_array_equal(
            run.adapter.ensemble.labels(run.leaves), model.calc_leaf_indexes(pool)
        )
        reasons = run.replay.recipe.inexact_because
        assert ("features estimated from text or embeddings" in reasons) == (kind != "categories")
        asked = pool_of(kind, X[:4], y[:4])
        for estimator in (LeafInfluence(), BoostIn()):
            values = estimator.fit(run).explain(asked, progress=False).values
            assert values.shape == (120, 4) and np.isfinite(values).all()

    def test_categories_in_one_hot_are_exact(self):
        X, y = rows_with_categories(1, 150, "binary")
        cats = ["colour", "store"]
        pool = catboost.Pool(X, y, cat_features=cats)
        model = fitted(pool, "binary", one_hot_max_size=10)
        run, table = trace(model, pool), trace(model, X, y)
        assert run.replay.error.largest <= 1e-9
        asked = catboost.Pool(X[:5], y[:5], cat_features=cats)
        np.testing.assert_allclose(explained(run, asked), explained(table, X[:5], y[:5]))
        np.testing.assert_allclose(explained(run, X[:5], y[:5]), explained(run, asked))

    @pytest.mark.parametrize("with_baseline", [False, True])
    def test_retraining(self, with_baseline):
        X, y = rows_with_categories(2, 150, "binary")
        cats = ["colour", "store"]
        weight = np.random.default_rng(0).uniform(0.5, 2, 150)
        baseline = np.random.default_rng(1).normal(size=150)

        def pool_of_rows(those):
            start = baseline[those] if with_baseline else None
            return catboost.Pool(
                X.iloc[those], y[those], cat_features=cats, weight=weight[those], baseline=start
            )

        pool = pool_of_rows(np.arange(150))
        run = trace(fitted(pool, "binary", one_hot_max_size=10), pool)
        asked = pool_of_rows(np.arange(5))
        effects = retrainer(run, asked)
        np.testing.assert_array_equal(effects(Without([])), 0)
        multipliers = np.ones(150)
        multipliers[7] = 0.0
        np.testing.assert_allclose(effects(Reweighted(multipliers)), effects(Without([7])))
        fewer = pool_of_rows(np.delete(np.arange(150), 7))
        p = fitted(fewer, "binary", one_hot_max_size=10).predict(asked, "RawFormulaVal")
        target = run.queries(asked).target
        expected = np.logaddexp(0, p) - target * p
        before = run.losses(run.queries(asked))
        np.testing.assert_allclose(effects(Without([7])), expected - before, atol=1e-6)
        np.testing.assert_array_equal(pool.get_weight(), weight.astype(np.float32))

    def test_labels_cannot_be_changed(self):
        X, y = rows_with_categories(3, 100, "binary")
        pool = catboost.Pool(X, y, cat_features=["colour", "store"])
        run = trace(fitted(pool, "binary", one_hot_max_size=10), pool)
        other = "no" if y[0] == "yes" else "yes"
        with pytest.raises(UnsupportedChangeError, match=r"not Relabelled.*the table"):
            retrainer(run, pool)(Relabelled([0], [other]))
        assert np.abs(retrainer(run, pool)(Relabelled([0], [y[0]]))).max() == 0

    def test_columns_of_other_kinds(self):
        X, y = rows_with_categories(4, 80, "binary")
        model = fitted(catboost.Pool(X, y, cat_features=["colour", "store"]), "binary")
        with pytest.raises(InputError, match=r"cat_features=\[0, 2\].*got \[0\]"):
            trace(model, catboost.Pool(X, y, cat_features=["colour"]))
        swapped = catboost.Pool(X.rename(columns={"size": "length"}), y, cat_features=[0, 2])
        with pytest.raises(InputError, match="column 'size' at position 1, got 'length'"):
            trace(model, swapped)

    def test_groups(self):
        X, y = rows_with_categories(5, 80, "binary")
        cats, group = ["colour", "store"], np.arange(80) // 4
        pool = catboost.Pool(X, y, cat_features=cats, group_id=group)
        model = fitted(catboost.Pool(X, y, cat_features=cats), "binary")
        with pytest.raises(InputError, match="group_id"):
            trace(model, pool)
        numeric = catboost.Pool(X[["size"]], y, group_id=group)
        trace(fitted(numeric, "binary"), numeric)


class TestRefusals:
    def test_quantized(self):
        X, y = rows(6, 80, "regression")
        model = fitted(catboost.Pool(X, y), "regression")
        pool = catboost.Pool(X, y)
        pool.quantize()
        with pytest.raises(InputError, match="quantized"):
            trace(model, pool)

    def test_without_labels(self):
        X, y = rows(7, 80, "regression")
        model = fitted(catboost.Pool(X, y), "regression")
        with pytest.raises(InputError, match="labels"):
            trace(model, catboost.Pool(X))
        with pytest.raises(InputError, match="holds target and weights itself"):
            trace(model, catboost.Pool(X, y), y)

    def test_another_container(self):
        X, y = rows(8, 60, "regression")
        adapter = parse(trained(X, y))
        for other in (X, X.to_numpy(), pd.Series(y)):
            assert adapter.unpack(other) is None


def test_several_targets():
    X, y = rows(9, 120, "regression")
    two = np.column_stack([y, y**2])
    pool = catboost.Pool(X, two)
    model = catboost.CatBoost({**SETTINGS, "loss_function": "MultiRMSE"}).fit(pool)
    run = trace(model, pool)
    assert run.target.shape == (120, 2) and run.replay.error.largest <= 1e-9
    predicted = np.asarray(run.predictions(X), dtype=float)
    np.testing.assert_allclose(predicted, model.predict(X), atol=1e-6)
    np.testing.assert_array_equal(run.adapter.refit(X, two, None).library_raw(
        run.adapter.features(X)), run.adapter.library_raw(run.adapter.features(X)))  # fmt: skip
