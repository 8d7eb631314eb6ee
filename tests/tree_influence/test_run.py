"""trace: what it accepts, what it refuses, and by which name."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from influence.errors import (
    InputError,
    NotFittedError,
    ParityError,
    StorageError,
    TrainingDataError,
    UnsupportedModelError,
    UntrustedFileError,
)
from tests.tree_influence import models
from tree_influence import BoostIn, LeafInfluence, trace


@pytest.fixture(scope="module")
def fitted():
    return models.fit("sklearn_gb", "logistic", n_trees=5, n_train=60, weighted=False)


@pytest.fixture(scope="module")
def framed():
    """The same with named columns, labelled rows and string labels."""
    X, y, X_test, y_test = models.make_data("logistic", n_train=60)
    names = ["a", "b", "c", "d"]
    table = pd.DataFrame(X, columns=names, index=[f"row {i}" for i in range(60)])
    target = pd.Series(np.where(y, "yes", "no"), index=table.index)
    asked = pd.DataFrame(X_test, columns=names, index=np.arange(len(y_test)) + 1000)
    truth = pd.Series(np.where(y_test, "yes", "no"), index=asked.index)
    model = models.make("sklearn_gb", "logistic", 5).fit(table, target)
    return model, table, target, asked, truth


def test_results_keep_the_pandas_index(framed):
    model, X, y, X_test, y_test = framed
    influence = LeafInfluence().fit(model, X, y).explain(X_test, y_test)
    assert influence.train_index.equals(X.index)
    assert influence.query_index.equals(X_test.index)
    assert set(influence.proponents(3)["train"]) <= set(X.index)


def test_a_pipeline_sends_rows_through_its_steps(framed):
    _, X, y, X_test, y_test = framed
    scaler = StandardScaler().fit(X)
    inner = models.make("sklearn_gb", "logistic", 5).fit(scaler.transform(X), y)
    through = trace(make_pipeline(scaler, inner), X, y)
    direct = trace(inner, scaler.transform(X), y.to_numpy())
    found = BoostIn().fit(through).explain(X_test, y_test)
    expected = BoostIn().fit(direct).explain(scaler.transform(X_test), y_test)
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.train_index.equals(X.index)


def test_losses_and_predictions_are_the_models(framed):
    model, X, y, X_test, y_test = framed
    run = trace(model, X, y)
    assert list(run.predictions(X_test)) == list(model.predict(X_test))
    chosen = model.predict_proba(X_test)[np.arange(len(y_test)), (y_test == "yes").astype(int)]
    np.testing.assert_allclose(run.losses(run.queries(X_test, y_test)), -np.log(chosen))


def test_the_fingerprint_follows_model_and_data(fitted):
    run = trace(fitted.model, fitted.X, fitted.y)
    assert run.fingerprint == trace(fitted.model, fitted.X, fitted.y).fingerprint
    other = models.fit("sklearn_gb", "logistic", n_trees=6, n_train=60, weighted=False)
    assert run.fingerprint != trace(other.model, other.X, other.y).fingerprint


def wrong_training_data(fitted):
    X, y = fitted.X, fitted.y
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    one = y.copy()
    one[3] = 1 - one[3]
    return {
        "labels shuffled": (X, y[order], None),
        "rows shuffled": (X[order], y, None),
        "one label flipped": (X, one, None),
        "rows missing": (X[5:], y[5:], None),
        "weights that were not there": (X, y, rng.uniform(0.5, 2, len(y))),
        "another sample": (rng.normal(size=X.shape), y, None),
    }


@pytest.mark.parametrize("what", wrong_training_data(models.fit("sklearn_gb", "logistic")))
def test_rows_that_are_not_the_models_are_refused(fitted, what):
    X, y, weight = wrong_training_data(fitted)[what]
    with pytest.raises(TrainingDataError, match=r"largest \S+, median \S+ of the leaf scale"):
        trace(fitted.model, X, y, weight)
    run = trace(fitted.model, X, y, weight, allow_inexact=True)
    assert run.provenance["leaf_error_largest"] > 0.01


def test_an_offset_of_the_target_hides_no_wrong_labels():
    """The leaf scale must not grow with a shift that all rows share."""
    import lightgbm

    X, y, _, _ = models.make_data("squared", n_train=300)
    model = lightgbm.LGBMRegressor(n_estimators=20, boost_from_average=False, verbose=-1)
    model.fit(X, y + 1000)
    assert trace(model, X, y + 1000).replay.error.largest < 1e-2
    shuffled = np.random.default_rng(0).permutation(y) + 1000
    with pytest.raises(TrainingDataError):
        trace(model, X, shuffled)


def test_forgotten_weights_are_noticed():
    fitted = models.fit("sklearn_gb", "logistic", n_trees=5)
    with pytest.raises(TrainingDataError, match="sample_weight is missing"):
        trace(fitted.model, fitted.X, fitted.y)


def test_row_subsampling_is_answered_with_its_error():
    X, y, X_test, y_test = models.make_data("logistic", n_train=400)
    model = GradientBoostingClassifier(subsample=0.9, n_estimators=20, random_state=0).fit(X, y)
    run = trace(model, X, y)
    assert "subsample" in str(run.provenance["leaves_inexact_because"])
    influence = LeafInfluence().fit(run).explain(X_test, y_test)
    assert "leaf error median" in repr(influence)


def bad_calls(fitted):
    model, X, y = fitted.model, fitted.X, fitted.y
    holed = X.copy()
    holed[0, 0] = np.nan
    run = trace(model, X, y)
    return {
        "unfitted": (lambda: trace(GradientBoostingClassifier(), X, y), NotFittedError, "fit"),
        "no model": (lambda: trace("x", X, y), StorageError, "cannot be read"),
        "not a tree model": (
            lambda: trace(LogisticRegression().fit(X, y), X, y), UnsupportedModelError, "Logistic",
        ),
        "a list": (lambda: trace([1, 2], X, y), UnsupportedModelError, "got a builtins.list"),
        "one column less": (lambda: trace(model, X[:, 1:], y), InputError, "4"),
        "missing values": (lambda: trace(model, holed, y), InputError, "(?i)nan|missing"),
        "short target": (lambda: trace(model, X, y[1:]), InputError, "one target for each"),
        "unknown label": (lambda: trace(model, X, y + 5), InputError, "classes"),
        "short weights": (lambda: trace(model, X, y, np.ones(3)), InputError, "one sample weight"),
        "negative weight": (lambda: trace(model, X, y, -np.ones(60)), InputError, "not negative"),
        "weight nan": (lambda: trace(model, X, y, np.full(60, np.nan)), InputError, "finite"),
        "no rows": (lambda: trace(model, X[:0], y[:0]), InputError, "(?i)at least|none|0"),
        "no queries": (lambda: run.queries(X[:0], y[:0]), InputError, "(?i)at least|none|0"),
        "query label": (lambda: run.queries(X[:2], [0, 7]), InputError, "row 1 is 7"),
        "query without truth": (lambda: run.queries(X[:2]), InputError, "target is missing"),
        "one-dimensional query": (lambda: run.queries(X[0], y[:1]), InputError, "two dimensions"),
        "k": (lambda: BoostIn().fit(run).explain_top(X, y, k=0), InputError, "from 1 on"),
        "through": (lambda: LeafInfluence(through="none"), InputError, "all"),
    }  # fmt: skip


BAD = list(bad_calls(models.fit("sklearn_gb", "logistic", 5, 60, weighted=False)))


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(fitted, what):
    call, error, says = bad_calls(fitted)[what]
    with pytest.raises(error, match=says):
        call()


def test_the_same_labels_in_another_order_are_refused(framed):
    model, X, y, X_test, y_test = framed
    with pytest.raises(InputError, match="another order"):
        trace(model, X, y.iloc[::-1])
    run = trace(model, X, y.to_numpy())
    with pytest.raises(InputError, match="another order"):
        run.queries(X_test, y_test.iloc[::-1])
    run.queries(X_test, y_test.reset_index(drop=True))


def test_named_columns_must_match(framed):
    model, X, y, X_test, y_test = framed
    run = trace(model, X, y)
    for other in (X_test[["b", "a", "c", "d"]], X_test.rename(columns={"a": "z"})):
        with pytest.raises(InputError, match=r"'[az]'|'b'"):
            run.queries(other, y_test)


def test_leaves_that_follow_no_formula_are_refused_by_name():
    X, y, _, _ = models.make_data("squared", n_train=60)
    from sklearn.ensemble import GradientBoostingRegressor

    run = trace(GradientBoostingRegressor(loss="quantile", n_estimators=3).fit(X, y), X, y)
    for estimator in (BoostIn(), LeafInfluence()):
        with pytest.raises(UnsupportedModelError, match="quantile"):
            estimator.fit(run)
    forest = trace(RandomForestClassifier(2).fit(X, y > 0), X, y > 0)
    with pytest.raises(UnsupportedModelError, match="RandomForest"):
        BoostIn().fit(forest)


def test_a_wrong_reading_of_the_trees_is_caught(fitted, monkeypatch):
    """Parity is checked for real: a threshold moved by a hair raises."""
    from tree_influence import run as module

    adapter = module.adapters.parse(fitted.model)
    adapter.ensemble.threshold[:] += 0.3
    monkeypatch.setattr(module.adapters, "parse", lambda model, params=None: adapter)
    with pytest.raises(ParityError, match="row"):
        trace(fitted.model, fitted.X, fitted.y)


def test_files_that_hold_no_model_are_named(tmp_path, fitted):
    import pickle

    for content, error, says in (
        (pickle.dumps(fitted.model), UntrustedFileError, "skops"),
        (b"", StorageError, "truncated"),
        (b"tree\nversion=v4\nnum_class=1\n", StorageError, "(?i)lightgbm|truncated"),
        (b'{"learner": 3', StorageError, "(?i)xgboost|truncated"),
        (b"CBM1....", StorageError, "(?i)catboost|truncated"),
        (b"PK\x03\x04....", StorageError, "(?i)skops|truncated"),
    ):
        path = tmp_path / "model.bin"
        path.write_bytes(content)
        with pytest.raises(error, match=says):
            trace(path, fitted.X, fitted.y)
