"""A retrainer's fingerprint: the same in every process, and another for another training."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from influence import Without, leave_one_out, retrain_all
from influence.counterfactual import counterfactual
from influence.errors import InputError, RetrainingError
from tests.tree_influence import models
from tree_influence import LeafInfluence, identity, retrainer, trace
from tree_influence.adapters.base import GivenRows

ROOT = Path(__file__).parents[2]
# Settings that grow the same trees on the data of these tests.
WITHOUT_EFFECT_HERE = {
    "lightgbm": {"max_bin": 254},
    "xgboost": {"max_bin": 255},
    "catboost": {"border_count": 253},
    "sklearn_gb": {"max_leaf_nodes": 1000},
    "sklearn_hist": {"max_bins": 254},
}


def fingerprint_of(library, asked=slice(None), X=None, y=None, weight=None, **settings):
    fitted = models.fit(library, "logistic")
    X = fitted.X if X is None else X
    y = fitted.y if y is None else y
    weight = fitted.weight if weight is None else weight
    model = models.make(library, "logistic", 3).set_params(**settings)
    run = trace(model.fit(X, y, sample_weight=weight), X, y, weight)
    return retrainer(run, fitted.X_test[asked], fitted.y_test[asked]).fingerprint


@pytest.mark.parametrize("library", models.LIBRARIES)
def test_whatever_trains_another_model_has_another_fingerprint(library):
    fitted = models.fit(library, "logistic")
    y, X, weight = fitted.y.copy(), fitted.X.copy(), fitted.weight.copy()
    y[0] = 1 - y[0]
    X[0, 0] = np.nextafter(X[0, 0], 9)  # falls into the same leaves
    weight[0] *= 2
    names = {
        "as is": fingerprint_of(library),
        "labels": fingerprint_of(library, y=y),
        "features": fingerprint_of(library, X=X),
        "weights": fingerprint_of(library, weight=weight),
        "fewer queries": fingerprint_of(library, asked=slice(0, 4)),
        "queries turned around": fingerprint_of(library, asked=slice(None, None, -1)),
        "a setting": fingerprint_of(library, **WITHOUT_EFFECT_HERE[library]),
    }
    assert len(set(names.values())) == len(names), names
    assert names["as is"] == fingerprint_of(library)
    if library in ("lightgbm", "xgboost"):
        assert names["as is"] == fingerprint_of(library, n_jobs=2), "it only decides the speed"


def test_another_process_says_the_same():
    code = (
        "from tests.tree_influence.test_retrain_cache import *\n"
        "for library in models.LIBRARIES: print(fingerprint_of(library))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == [fingerprint_of(library) for library in models.LIBRARIES]


def test_native_boosters_are_told_apart_by_their_parameters():
    import lightgbm
    import xgboost

    X, y, X_test, y_test = models.make_data("logistic")
    told = []
    for bins in (255, 254):
        params = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 3, "max_bin": bins}
        booster = lightgbm.train(params, lightgbm.Dataset(X, y), 3)
        told.append(retrainer(trace(booster, X, y), X_test, y_test).fingerprint)
        params = {"objective": "binary:logistic", "max_bin": bins, "nthread": 1}
        booster = xgboost.train(params, xgboost.DMatrix(X, y), 3)
        told.append(retrainer(trace(booster, X, y), X_test, y_test).fingerprint)
    assert len(set(told)) == 4


def test_a_campaign_resumes_on_a_model_traced_again(tmp_path):
    X, y, X_test, y_test = models.make_data("logistic")
    changes = leave_one_out(len(y), rows=range(4))
    effects = []
    for n_jobs in (1, 2):
        model = models.make("lightgbm", "logistic", 3).fit(X, y)
        retrain = retrainer(trace(model, X, y), X_test, y_test)
        effects.append(retrain_all(retrain, changes, n_jobs, progress=False, cache=tmp_path))
    np.testing.assert_array_equal(effects[0], effects[1])
    assert len(list(tmp_path.iterdir())) == len(changes)
    with pytest.raises(InputError, match="row 40"):
        retrain_all(retrain, [Without([0]), Without([40])])
    gone = Without(np.flatnonzero(y == 1))
    with pytest.raises(RetrainingError, match="TooFewRowsError"):
        retrain_all(retrain, [*changes, gone], progress=False, cache=tmp_path)


def test_tables_of_every_kind_are_read():
    numbers = np.arange(6.0).reshape(3, 2)
    frame = pd.DataFrame({"a": pd.Categorical(["x", "y", "x"]), "b": [1.0, np.nan, 3.0]})
    tables = {
        "array": numbers,
        "its float32": numbers.astype(np.float32),
        "CSR": sparse.csr_array(numbers),
        "frame": frame,
        "other category": frame.assign(a=pd.Categorical(["x", "y", "y"])),
        "other name": frame.rename(columns={"a": "c"}),
        "other dtype": frame.assign(a=["x", "y", "x"]),
        "objects": np.array([["x", 1], ["y", None], ["x", 2]], dtype=object),
        "other object": np.array([["x", 1], ["y", None], ["x", 3]], dtype=object),
    }
    pyarrow = pytest.importorskip("pyarrow")
    tables["Arrow"] = pyarrow.table({"a": [1, 2, 3]})
    tables["Arrow, other value"] = pyarrow.table({"a": [1, 2, 4]})
    told = {name: identity.of_rows(GivenRows(table, np.zeros(3))) for name, table in tables.items()}
    assert len(set(told.values())) == len(told), told
    again = identity.of_rows(GivenRows(frame.copy().set_axis([7, 8, 9]), np.zeros(3)))
    assert told["frame"] == again, "the labels of the rows train nothing"


def test_what_cannot_be_told_apart_is_refused():
    catboost = pytest.importorskip("catboost")
    frame = pd.DataFrame({"a": ["x", "y", "x"], "b": [1.0, 2, 3]})
    pool = catboost.Pool(frame, cat_features=["a"])
    with pytest.raises(InputError, match="only CatBoost can read"):
        identity.of_rows(GivenRows(pool, np.zeros(3)))
    lists = pd.DataFrame({"a": [[1], [2]]})
    with pytest.raises(InputError, match="without a hash"):
        identity.of_rows(GivenRows(lists, np.zeros(2)))
    for value in (lambda x: x, np.random.RandomState(0), partial(max, 1), object()):
        with pytest.raises(InputError, match=r"step\.f is a"):
            identity.of_settings({"f": value}, "step.")


def test_steps_of_a_pipeline_are_part_of_the_recipe():
    def steps(**settings):
        columns = make_column_transformer((StandardScaler(**settings), [0, 1]), remainder="drop")
        return make_pipeline(columns, FunctionTransformer(np.log1p), FunctionTransformer(abs))

    told = identity.of_settings({"prefix": steps()})
    assert told == identity.of_settings({"prefix": steps()})
    assert told != identity.of_settings({"prefix": steps(with_mean=False)})
    assert "log1p" in told and "builtins.abs" in told and "0x" not in told


@pytest.mark.parametrize("library", models.LIBRARIES)
@pytest.mark.parametrize("task", ["logistic", "softmax"])
def test_flips_are_changes_of_the_librarys_own_prediction(library, task):
    fitted = models.fit(library, task, weighted=False)
    run = trace(fitted.model, fitted.X, fitted.y)
    retrain = retrainer(run, fitted.X_test, fitted.y_test)
    rows = np.arange(10)
    again = models.make(library, task, 3).fit(fitted.X[10:], fitted.y[10:])
    before, after = fitted.model.predict(fitted.X_test), again.predict(fitted.X_test)
    np.testing.assert_array_equal(retrain.flips(Without(rows)), (before != after).ravel())
    assert not retrain.flips(Without([])).any()


def test_regressions_do_not_flip():
    fitted = models.fit("sklearn_gb", "squared", weighted=False)
    retrain = retrainer(trace(fitted.model, fitted.X, fitted.y), fitted.X_test, fitted.y_test)
    with pytest.raises(InputError, match="function of your own"):
        retrain.flips(Without([0]))


def test_a_counterfactual_set_of_a_model_flips_it():
    fitted = models.fit("lightgbm", "logistic", n_train=80, weighted=False)
    run = trace(fitted.model, fitted.X, fitted.y)
    said = fitted.model.predict(fitted.X_test)
    influence = LeafInfluence().fit(run).explain(fitted.X_test, said)
    found = counterfactual(influence, retrainer(run, fitted.X_test, said).flips, query=1)
    assert found.flipped
    again = models.make("lightgbm", "logistic", 3)
    again.fit(np.delete(fitted.X, found.rows, 0), np.delete(fitted.y, found.rows))
    assert again.predict(fitted.X_test)[1] != said[1]
