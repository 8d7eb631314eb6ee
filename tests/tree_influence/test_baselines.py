"""Baselines against naive loops, and features in every table they come in."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from influence import label_noise_curve
from influence.errors import InputError
from tests.tree_influence import models
from tests.tree_influence.test_loo import loss
from tree_influence import InputSimilarity, Random, SameClass, TrainingLoss, trace


@pytest.fixture(scope="module", params=models.TASKS)
def fitted(request):
    made = models.fit("sklearn_gb", request.param)
    made.weight[4] = 0.0
    made.model.fit(made.X, made.y, sample_weight=made.weight)
    return request.param, made, trace(made.model, made.X, made.y, made.weight)


def test_random_values_are_standard_normal_and_independent():
    X, y, X_test, y_test = models.make_data("squared", n_train=400, n_test=30)
    run = trace(models.make("lightgbm", "squared", 20).fit(X, y), X, y)
    values = Random().fit(run).explain(X_test, y_test).values
    assert scipy.stats.kstest(values.ravel(), "norm").pvalue > 0.01
    for axis in (values, values.T):
        between = np.corrcoef(axis)[np.triu_indices(len(axis), 1)]
        assert abs(between.mean()) < 0.01
        expected = 1 / np.sqrt(axis.shape[1] - 1)
        assert between.std() == pytest.approx(expected, rel=0.1)
    other = Random(seed=1).fit(run).explain(X_test, y_test).values
    assert abs(np.corrcoef(values.ravel(), other.ravel())[0, 1]) < 0.03


def test_the_same_class_is_a_proponent_in_random_order(fitted):
    task, made, run = fitted
    values = SameClass(seed=2).fit(run).explain(made.X_test, made.y_test).values
    counted = np.arange(40) != 4
    if task == "squared":
        for q, truth in enumerate(made.y_test):
            distance = np.abs(made.y - truth)
            expected = np.where(counted, 1 - distance / distance[counted].mean(), 0.0)
            np.testing.assert_allclose(values[:, q], expected, atol=1e-12)
        return
    drawn = Random(seed=2).fit(run).explain(made.X_test, made.y_test).values
    for q, label in enumerate(made.y_test):
        side = np.where(made.y == label, 1.0, -1.0) * counted
        np.testing.assert_array_equal(values[:, q], side * np.abs(drawn[:, q]))


def on_side(task, made, j, q):
    if task != "squared":
        return 1.0 if made.y[j] == made.y_test[q] else -1.0
    f = made.model.predict(made.X_test[[q]])[0]
    return 1.0 if (made.y[j] - f) * (made.y_test[q] - f) >= 0 else -1.0


def naive(measure, a, b):
    if measure == "euclidean":
        return 1 / (1 + np.sqrt(((a - b) ** 2).sum()))
    return (a @ b) / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_similar_inputs(fitted, measure):
    task, made, run = fitted
    mean, sd = made.X.mean(axis=0), made.X.std(axis=0)
    own, asked = (made.X - mean) / sd, (made.X_test - mean) / sd
    values = InputSimilarity(measure).fit(run).explain(made.X_test, made.y_test).values
    for j in range(40):
        for q in range(6):
            expected = (j != 4) * on_side(task, made, j, q) * naive(measure, own[j], asked[q])
            assert values[j, q] == pytest.approx(expected, abs=1e-12)


def test_a_row_s_own_loss(fitted):
    task, made, run = fitted
    own = loss(task, made.model, made.X, made.y)
    counted = np.arange(40) != 4
    estimator = TrainingLoss().fit(run)
    values = estimator.explain(made.X_test, made.y_test).values
    expected = np.where(counted, own[counted].mean() - own, 0.0)
    np.testing.assert_allclose(values, np.tile(expected[:, None], 6), atol=1e-9)
    np.testing.assert_allclose(estimator.self_influence(), own * counted, atol=1e-9)


def test_the_loss_finds_flipped_labels():
    X, y, _, _ = models.make_data("logistic", n_train=200)
    y = ((X[:, 0] + X[:, 1]) > 0).astype(int)
    wrong = np.arange(0, 200, 20)
    y[wrong] = 1 - y[wrong]
    model = models.make("sklearn_gb", "logistic", 5).fit(X, y)
    found = label_noise_curve(TrainingLoss().fit(model, X, y).self_influence(), wrong, [0.1])
    assert found["recall"].item() > 0.5


# Features of other tables. Levels are one-hot coded by hand, each column scaled as a whole.

TOWNS = np.array(["Ulm", "Rom", "Bonn"])


def table(n, seed):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "town": pd.Categorical(TOWNS[rng.integers(0, 3, n)], categories=TOWNS),
            "z": rng.integers(0, 5, n),
        }
    )


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_levels_and_missing_values(measure):
    from lightgbm import LGBMRegressor

    rows, asked = table(40, 0), table(5, 1)
    rows.loc[[3, 7], "x"], rows.loc[[5, 9], "town"] = np.nan, None
    asked.loc[1, "x"], asked.loc[2, "town"] = np.nan, None
    y, y_test = np.arange(40.0), np.arange(5.0)
    model = LGBMRegressor(n_estimators=3, min_child_samples=3, verbose=-1, n_jobs=1).fit(rows, y)
    run = trace(model, rows, y)

    def coded(part):
        columns = []
        for name in ("x", "z"):
            column = (part[name] - rows[name].mean()) / rows[name].std(ddof=0)
            columns.append(column.fillna(0.0).to_numpy())
        levels = [*TOWNS, "none"]
        town, own = (t["town"].astype(object).fillna("none").to_numpy() for t in (part, rows))
        variance = sum((own == level).var() for level in levels)
        columns += [(town == level) / np.sqrt(variance) for level in levels]
        return np.column_stack(columns)

    values = np.abs(InputSimilarity(measure).fit(run).explain(asked, y_test).values)
    a, b = coded(rows), coded(asked)
    expected = np.array([[naive(measure, one, other) for other in b] for one in a])
    np.testing.assert_allclose(values, np.abs(expected), atol=1e-12)


@pytest.mark.parametrize("form", ["frame", "polars", "arrow", "object"])
def test_tables_of_numbers_are_alike(form):
    import pyarrow
    from lightgbm import LGBMRegressor

    X, y, X_test, y_test = models.make_data("squared")
    convert = {
        "frame": lambda rows: rows,
        "polars": lambda rows: pytest.importorskip("polars").from_pandas(rows),
        "arrow": lambda rows: pyarrow.Table.from_pandas(rows, preserve_index=False),
        "object": lambda rows: rows.astype(object).to_numpy(),
    }[form]
    rows, asked = (pd.DataFrame(part, columns=list("abcd")) for part in (X, X_test))
    model = LGBMRegressor(n_estimators=3, min_child_samples=3, verbose=-1, n_jobs=1)
    model.fit(X if form == "object" else rows, y)
    found = InputSimilarity().fit(model, convert(rows), y).explain(convert(asked), y_test).values
    plain = InputSimilarity().fit(model, rows if form != "object" else X, y)
    expected = plain.explain(X_test if form == "object" else asked, y_test).values
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_sparse_rows_stay_sparse(measure):
    X, y, X_test, y_test = models.make_data("squared")
    X[X < 0.3], X_test[X_test < 0.3] = 0.0, 0.0
    model = models.make("lightgbm", "squared", 3).fit(scipy.sparse.csr_matrix(X), y)
    estimator = InputSimilarity(measure).fit(model, scipy.sparse.csr_matrix(X), y)
    values = np.abs(estimator.explain(scipy.sparse.csr_matrix(X_test), y_test).values)
    a, b = X / X.std(axis=0), X_test / X.std(axis=0)
    with np.errstate(invalid="ignore"):
        expected = [[np.nan_to_num(naive(measure, one, other)) for other in b] for one in a]
    np.testing.assert_allclose(values, expected, atol=1e-7)
    one = estimator.explain(scipy.sparse.csr_matrix(X_test[2:3]), y_test[2:3]).values
    np.testing.assert_array_equal(np.abs(one[:, 0]), values[:, 2])


def test_rows_are_compared_after_a_pipeline_s_earlier_steps():
    X, y, X_test, y_test = models.make_data("squared")
    last = models.make("sklearn_gb", "squared", 3)
    curved = make_pipeline(StandardScaler(), FunctionTransformer(np.sinh), last).fit(X, y)
    seen, asked = curved[:-1].transform(X), curved[:-1].transform(X_test)
    found = InputSimilarity().fit(curved, X, y).explain(X_test, y_test).values
    expected = InputSimilarity().fit(curved[-1], seen, y).explain(asked, y_test).values
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_pool_that_gives_no_features_back_is_refused():
    import catboost

    rows, y = table(40, 0), np.arange(40.0)
    pool = catboost.Pool(rows, y, cat_features=["town"])
    model = catboost.CatBoostRegressor(
        iterations=3, depth=2, verbose=False, allow_writing_files=False, thread_count=1,
        one_hot_max_size=5, boosting_type="Plain",
    ).fit(pool)  # fmt: skip
    with pytest.raises(InputError, match=r"catboost\.core\.Pool with categories"):
        InputSimilarity().fit(model, pool)
    assert np.isfinite(Random().fit(model, pool).explain(pool).values).all()
    by_table = InputSimilarity().fit(model, rows, y)
    with pytest.raises(InputError, match="Trace the model with the table"):
        by_table.explain(pool)


def rows_of_any_kind(rows):
    """The same numbers in every kind of table."""
    import pyarrow

    return {
        "array": rows.to_numpy(),
        "list": rows.to_numpy().tolist(),
        "object": rows.astype(object).to_numpy(),
        "frame": rows,
        "nullable": rows.convert_dtypes(),
        "arrow": pyarrow.Table.from_pandas(rows, preserve_index=False),
        "sparse": scipy.sparse.csr_matrix(rows.to_numpy()),
    }


@pytest.mark.parametrize("form", ["array", "object", "frame", "arrow", "sparse"])
def test_queries_may_come_in_another_table_than_the_training_rows(form):
    X, y, X_test, y_test = models.make_data("squared")
    rows, asked = (pd.DataFrame(part, columns=list("abcd")) for part in (X, X_test))
    asked.iloc[1, 2] = 0.0
    train = rows_of_any_kind(rows)[form]
    fitted_on = rows if form == "arrow" else train  # LightGBM 4.6 fails on Arrow's names
    run = trace(models.make("lightgbm", "squared", 3).fit(fitted_on, y), train, y)
    a, b = X / X.std(axis=0), asked.to_numpy() / X.std(axis=0)
    distance = np.sqrt(((a[:, None] - b) ** 2).sum(axis=2))
    estimator = InputSimilarity().fit(run)
    for kind, given in rows_of_any_kind(asked).items():
        found = np.abs(estimator.explain(given, y_test, progress=False).values)
        np.testing.assert_allclose(found, 1 / (1 + distance), rtol=1e-6, err_msg=kind)


def test_a_wrong_measure_is_named():
    with pytest.raises(InputError, match='"euclidean" or "cosine"'):
        InputSimilarity("manhattan")
