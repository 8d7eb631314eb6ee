"""`lightgbm.Dataset` in place of rows, target, weights and starting scores; rows in other forms."""

import lightgbm as lgb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

from influence import Relabelled, Without
from influence.errors import InputError, TrainingDataError
from tests.tree_influence.adapters.lightgbm_oracle import recompute, rows, train
from tests.tree_influence.adapters.lightgbm_rows import SMALL, TASKS, estimator, positions, table
from tests.tree_influence.adapters.test_lightgbm_objectives import (
    EQUATIONS,
    largest_error,
)
from tests.tree_influence.adapters.test_lightgbm_objectives import rows as rows_of
from tests.tree_influence.adapters.test_lightgbm_objectives import train as train_on
from tree_influence import LeafInfluence, retrainer, trace
from tree_influence.adapters import parse


def dataset(X, y, **given):
    return lgb.Dataset(X, y, **{"free_raw_data": False, "params": {"verbose": -1}, **given})


@pytest.mark.parametrize("constructed", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_a_dataset_says_what_arrays_say(task, constructed):
    X, y, weight = rows(task)
    booster = train(task, X, y, weight)
    whole, asked = dataset(X, y, weight=weight), lgb.Dataset(X[:7], y[:7])
    if constructed:
        whole.construct()
    run, plain = trace(booster, whole), trace(booster, X, y, weight)
    assert run.replay.error.largest < 1e-6
    np.testing.assert_allclose(run.weight, plain.weight, rtol=1e-6)
    found = LeafInfluence().fit(run).explain(asked).values
    expected = LeafInfluence().fit(plain).explain(X[:7], y[:7]).values
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    assert asked.data is not None, "asking frees no rows of the user's"


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("constructed", [False, True])
def test_starting_scores_are_exact(name, constructed):
    params, kind, equations, _ = EQUATIONS[name]
    X, y, weight = rows_of(kind)
    weight = None if name == "cross_entropy_lambda" else weight
    n_outputs = params.get("num_class", 1)
    scores = np.random.default_rng(1).normal(size=(len(y), n_outputs)) / 3
    given = scores if n_outputs > 1 else scores[:, 0]
    booster = train_on(name, X, y, weight, init_score=given, **params)
    assert largest_error(booster, equations, X, y, weight, scores) < 1e-5, "the test's equations"
    whole = dataset(X, y, weight=weight, init_score=given)
    run = trace(booster, whole.construct() if constructed else whole)
    assert run.replay.error.largest < 1e-5
    assert run.replay.recipe.inexact_because == ()
    asked = dataset(X[:6], y[:6], init_score=given[:6])
    raw = np.asarray(booster.predict(X[:6], raw_score=True)).reshape(6, -1) + scores[:6]
    expected = run.adapter.loss().value(run.target[:6], raw)
    np.testing.assert_allclose(run.losses(run.queries(asked)), expected, rtol=1e-6, atol=1e-7)
    retrain = retrainer(run, asked)
    np.testing.assert_allclose(retrain.base, run.losses(run.queries(asked)), rtol=1e-6)
    bare = trace(booster, X, y, weight, allow_inexact=True)
    assert [because[:10] for because in bare.replay.recipe.inexact_because] == ["init_score"]


def test_starting_scores_of_every_shape():
    X, y, _ = rows("multiclass")
    scores = np.random.default_rng(1).normal(size=(len(y), 3))
    booster = train("multiclass", X, y, init_score=scores)
    frame = pd.DataFrame(scores)
    for given in (scores, scores.T.reshape(-1), frame, pa.Table.from_pandas(frame)):
        run = trace(booster, dataset(X, y, init_score=given))
        np.testing.assert_array_equal(run.offset, scores)
        assert run.replay.error.largest < 1e-6
    with pytest.raises(InputError, match="3 outputs"):
        trace(booster, dataset(X, y, init_score=np.zeros(len(y))))
    with pytest.raises(InputError, match="3 outputs"):
        trace(booster, dataset(X, y, init_score=np.zeros(len(y) + 1)))


def test_without_the_starting_scores_the_message_tells_the_way_out():
    X, y, _ = rows("regression")
    scores = 20 * np.random.default_rng(1).normal(size=len(y))
    booster = train("regression", X, y, init_score=scores)
    with pytest.raises(TrainingDataError, match=r"lightgbm\.Dataset\(X, y, init_score="):
        trace(booster, X, y)
    assert trace(booster, dataset(X, y, init_score=scores)).replay.error.largest < 1e-6


@pytest.mark.parametrize("task", TASKS)
def test_estimators_with_starting_scores(task):
    X, y = table(task)
    scores = np.random.default_rng(1).normal(size=(len(y), 3 if task == "multiclass" else 1))
    given = scores if task == "multiclass" else scores[:, 0]
    model = estimator(task).fit(X, y, init_score=given)
    run = trace(model, dataset(X, positions(task, y), init_score=given))
    np.testing.assert_array_equal(run.y, y)
    assert run.replay.error.largest < 1e-5
    refitted = run.adapter.refit(X, y, None, scores)
    np.testing.assert_array_equal(refitted.ensemble.leaf_value, run.adapter.ensemble.leaf_value)


def test_labels_of_an_estimators_dataset():
    """Classes of text are told by position, others by their value."""
    X, y = table("multiclass")
    model = estimator("multiclass").fit(X, y)
    with pytest.raises(InputError, match="positions 0 to 2"):
        trace(model, dataset(X, positions("multiclass", y) + 1))
    numbers = 10.0 * positions("multiclass", y) + 10
    run = trace(estimator("multiclass").fit(X, numbers), dataset(X, numbers))
    np.testing.assert_array_equal(run.target, positions("multiclass", y))
    assert run.replay.error.largest < 1e-5


@pytest.mark.parametrize("frame", [False, True])
def test_subsets(frame):
    X, y, weight = rows("binary")
    X = pd.DataFrame(X) if frame else X
    scores = np.random.default_rng(1).normal(size=len(y))
    place = np.arange(0, len(y), 2)
    whole = dataset(X, y, weight=weight, init_score=scores)
    half = whole.subset(place)
    booster = lgb.train({**SMALL, "objective": "binary"}, half, 4)
    for part in (half, whole.subset(place), whole.subset(range(len(y))).subset(place)):
        run = trace(booster, part)
        assert run.n_train == len(place)
        assert run.replay.error.largest < 1e-5
        np.testing.assert_array_equal(run.target, y[::2])
        np.testing.assert_array_equal(run.offset[:, 0], scores[::2])
    half.set_label(1 - y[place])
    half.set_init_score(2 * scores[place])
    run = trace(lgb.train({**SMALL, "objective": "binary"}, half, 4), half)
    np.testing.assert_array_equal(run.target, 1 - y[::2])
    assert run.replay.error.largest < 1e-5


def test_validation_sets_with_a_reference():
    X, y, _ = rows("regression")
    whole = dataset(X[:150], y[:150])
    held_out = whole.create_valid(X[150:], y[150:])
    booster = lgb.train(SMALL, whole, 4, [held_out])
    run = trace(booster, whole)
    found = run.losses(run.queries(dataset(X[150:], y[150:])))
    np.testing.assert_allclose(found, 0.5 * (booster.predict(X[150:]) - y[150:]) ** 2, rtol=1e-4)


def test_datasets_that_cannot_be_read(tmp_path):
    X, y, _ = rows("regression")
    freed = lgb.Dataset(X, y, categorical_feature=[1])
    booster = lgb.train(SMALL, freed, 2)
    with pytest.raises(InputError, match="free_raw_data=False"):
        trace(booster, freed)
    with pytest.raises(InputError, match="label=y"):
        trace(booster, dataset(X, None))
    with pytest.raises(InputError, match=r"array, a sparse matrix or a table.*str"):
        trace(booster, lgb.Dataset(str(tmp_path / "rows.csv"), y))
    with pytest.raises(InputError, match="4 columns, got 3"):
        trace(booster, dataset(X[:, :3], y))
    with pytest.raises(InputError, match="leave out"):
        trace(booster, dataset(X, y), y)
    assert trace(booster, dataset([X[:100], X[100:]], y)).replay.error.largest < 1e-6


def test_scores_of_a_continued_model_are_its_own_trees():
    X, y, _ = rows("regression")
    first = train("regression", X, y, rounds=3)
    whole = dataset(X, y, categorical_feature=[1])
    booster = lgb.train({**SMALL, "learning_rate": 0.1}, whole, 3, init_model=first)
    assert whole.get_init_score() is not None, "the case this test is for"
    run = trace(booster, whole)
    assert not run.offset.any()
    assert run.replay.error.largest < 1e-5
    again = lgb.train(SMALL, whole, 3)  # without init_model: scores are now all 0
    assert trace(again, whole).replay.error.largest < 1e-5


def test_groups_do_no_harm():
    X, y, _ = rows("regression")
    whole = dataset(X, y, group=[40] * 6)
    assert trace(lgb.train(SMALL, whole, 3), whole).replay.error.largest < 1e-5


@pytest.mark.filterwarnings("ignore:Converting data to scipy")
@pytest.mark.parametrize("zero_as_missing", [False, True])
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_what_a_sparse_matrix_leaves_out_is_zero(form, zero_as_missing):
    X, y, _ = rows("regression")
    X[np.random.default_rng(3).random(X.shape) < 0.3] = 0
    held = form(X)
    model = estimator("regression", zero_as_missing=zero_as_missing).fit(held, y)
    run = trace(model, held, y)
    leaves = np.asarray(model.predict(held, pred_leaf=True))
    np.testing.assert_array_equal(run.adapter.ensemble.labels(run.leaves), leaves)
    np.testing.assert_array_equal(trace(model, X, y).leaves, run.leaves)
    retrain = retrainer(run, held[:5], y[:5])
    np.testing.assert_allclose(retrain.base, run.losses(run.queries(held[:5], y[:5])))
    with pytest.raises(InputError, match="4 columns, got 3"):
        run.queries(held[:, :3], y)


def tables_of_other_libraries(X):
    """The same rows as pandas, polars and Arrow hold them."""
    polars = pytest.importorskip("polars")
    arrow = pa.Table.from_pandas(X, preserve_index=False)
    return {
        "arrow": arrow,
        "polars": polars.from_arrow(arrow),
        "arrow strings": X.astype({"town": pd.ArrowDtype(pa.string())}),
        "arrow dtypes": pa.Table.from_pandas(X.assign(grade=X["grade"].astype(str)))
        .to_pandas(types_mapper=pd.ArrowDtype),
        "nullable": X.assign(zone=X["zone"].astype(object)).convert_dtypes(),
        "python strings": X.astype({"town": object}),
    }  # fmt: skip


def test_forms_of_a_table():
    X, y = table()
    X["new"] = X["new"].astype("boolean").mask(X.index % 11 == 0)
    X["count"] = X["count"].astype("Int64").mask(X.index % 13 == 0)
    model = estimator("regression").fit(X, y)
    expected = trace(model, X, y)
    for name, rows_ in tables_of_other_libraries(X).items():
        run = trace(model, rows_, y)
        np.testing.assert_array_equal(run.leaves, expected.leaves, err_msg=name)


def test_numbers_in_columns_of_objects():
    """Booleans and whole numbers beside None, as polars hands them over."""
    X, y, _ = rows("regression")
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["b"] = frame["b"].gt(2).astype("boolean").mask(frame.index % 5 == 0)
    model = estimator("regression").fit(frame, y)
    plain = frame.assign(b=frame["b"].astype(object).where(frame["b"].notna(), None))
    assert plain["b"].dtype == object
    np.testing.assert_array_equal(parse(model).features(plain), parse(model).features(frame))


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("native", [False, True])
def test_every_objective_is_trained_again(name, native):
    params, kind, _, _ = EQUATIONS[name]
    X, y, _ = rows_of(kind)
    if native:
        model = train_on(name, X, y, **params)
    else:
        made = lgb.LGBMClassifier if kind == "class" else lgb.LGBMRegressor
        own = {key: value for key, value in params.items() if key != "num_class"}
        model = made(objective=name, n_estimators=4, verbose=-1, n_jobs=1, **own).fit(X, y)
    run = trace(model, X, y)
    retrain = retrainer(run, X[:8], y[:8])
    np.testing.assert_array_equal(retrain.base, run.losses(run.queries(X[:8], y[:8])))
    assert retrain(Without(range(20))).any()
    changed = y.copy()
    changed[:20] = y[20:40]
    assert retrain(Relabelled(range(20), changed[:20])).any()


def test_the_oracle_of_this_file_still_tells_weights_apart():
    X, y, weight = rows("regression")
    booster = train("regression", X, y, weight)
    assert recompute(booster, "regression", X, y, None)[1] > 1e-3
