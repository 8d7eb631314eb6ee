"""Traps in models, files, categories and missing values: none may give numbers without an error."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from influence.errors import (
    InputError,
    NotFittedError,
    StorageError,
    TrainingDataError,
    UnsupportedModelError,
    UntrustedFileError,
)
from tests.tree_influence import models
from tests.tree_influence.trapped import NAMES, Case
from tree_influence import BoostIn, LeafInfluence, trace


@pytest.fixture(scope="module", params=models.LIBRARIES)
def library(request):
    return request.param


@pytest.fixture(scope="module")
def binary(library):
    return Case(library, "logistic")


# Models.


def test_an_unfitted_model(library):
    with pytest.raises(NotFittedError, match="fit"):
        trace(models.make(library, "logistic", 3), np.zeros((4, 4)), np.array([0, 1, 0, 1]))


@pytest.mark.parametrize("model", [None, 3, "no such file.txt", {"trees": []}, np.zeros(3)])
def test_what_is_no_model(model):
    with pytest.raises((UnsupportedModelError, StorageError)):
        trace(model, np.zeros((4, 4)), np.zeros(4))


def test_the_class_in_place_of_the_model(library):
    with pytest.raises((UnsupportedModelError, NotFittedError)):
        trace(type(models.make(library, "logistic", 3)), np.zeros((4, 4)), np.zeros(4))


def test_models_of_zero_trees():
    import lightgbm

    rows = lightgbm.Dataset(np.zeros((30, 2)), np.arange(30.0))
    empty = lightgbm.Booster({"verbose": -1}, rows)
    with pytest.raises((NotFittedError, InputError), match="trees"):
        trace(empty, np.zeros((30, 2)), np.arange(30.0))


def test_trees_of_one_leaf_have_no_influence(library):
    """Not a mistake: the answer is that only the bias could have moved."""
    X = pd.DataFrame(np.zeros((60, 4)), columns=NAMES)
    y = np.random.default_rng(0).normal(size=60)
    model = models.make(library, "squared", n_trees=2)
    try:
        model.fit(X, y)
    except Exception as error:  # CatBoost refuses constant columns
        assert "constant" in str(error)
        return
    run = trace(model, X, y)
    assert run.provenance["leaf_error_largest"] < 1e-4
    assert np.isfinite(LeafInfluence().fit(run).explain(X[:3], y[:3]).values).all()
    np.testing.assert_allclose(run.predictions(X), model.predict(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
def test_a_column_without_any_value(library):
    """Not a mistake: these libraries take it, and so do we, exactly."""
    case = Case(library, "logistic")
    X = case.X.assign(b=np.nan)
    model = models.make(library, "logistic", n_trees=4).fit(X, case.y)
    run = trace(model, X, case.y)
    assert run.provenance["leaf_error_largest"] < 1e-4
    asked = case.X_test.assign(b=1.5)
    assert np.isfinite(BoostIn().fit(run).explain(asked, case.y_test).values).all()
    assert list(run.predictions(asked)) == list(np.ravel(model.predict(asked)))


# Files.


def saved(case, folder):
    """The model in its library's own format, and the text in it that holds numbers, if any."""
    path = Path(folder) / {
        "lightgbm": "m.txt", "xgboost": "m.json", "catboost": "m.cbm",
    }.get(case.library, "m.skops")  # fmt: skip
    if case.library == "lightgbm":
        case.model.booster_.save_model(path)
    elif case.library in ("xgboost", "catboost"):
        case.model.save_model(path)
    else:
        from skops import io

        io.dump(case.model, path)
    return path


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_files(binary, share, tmp_path):
    path = saved(binary, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StorageError):
        binary.trace(model=path)


def test_pickles_are_not_loaded(binary, tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(binary.model))
    with pytest.raises(UntrustedFileError, match="pickle"):
        binary.trace(model=path)


def test_files_of_something_else(tmp_path):
    for name, content in {
        "data.csv": b"a,b\n1,2\n", "page.json": b'{"a": 1}', "zip.skops": b"PK\x03\x04rubbish",
        "empty.txt": b"",
    }.items():  # fmt: skip
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(StorageError):
            trace(path, np.zeros((4, 4)), np.zeros(4))


def test_an_edited_lightgbm_file(tmp_path):
    """A leaf value of the same length changed by hand."""
    case = Case("lightgbm", "logistic")
    path = saved(case, tmp_path)
    text = path.read_text()
    start = text.index("leaf_value=") + len("leaf_value=")
    digit = next(i for i in range(start, start + 20) if text[i] in "123456789")
    path.write_text(text[:digit] + str(10 - int(text[digit])) + text[digit + 1 :])
    with pytest.raises((TrainingDataError, StorageError)):
        case.trace(model=path)


def test_an_edited_xgboost_file(tmp_path):
    case = Case("xgboost", "logistic")
    path = saved(case, tmp_path)
    told = json.loads(path.read_text())
    tree = told["learner"]["gradient_booster"]["model"]["trees"][0]
    tree["split_conditions"][-1] += 0.5
    tree["base_weights"][-1] += 0.5
    path.write_text(json.dumps(told))
    params = {"reg_lambda": models.L2, "learning_rate": models.ETA}
    with pytest.raises(TrainingDataError):
        case.trace(model=path, params=params)


def test_a_wrong_l2_for_a_file(tmp_path):
    case = Case("xgboost", "logistic")
    path = saved(case, tmp_path)
    params = {"reg_lambda": 0.0, "learning_rate": models.ETA}
    with pytest.raises(TrainingDataError):
        case.trace(model=path, params=params)


def test_a_wrong_learning_rate_for_a_file(tmp_path):
    """Rates may change from round to round, so the leaves' own word on them is taken."""
    case = Case("xgboost", "logistic")
    path = saved(case, tmp_path)
    run = case.trace(model=path, params={"reg_lambda": models.L2, "learning_rate": 0.2})
    np.testing.assert_allclose(run.replay.recipe.learning_rate, models.ETA, rtol=1e-5)
    assert run.replay.error.largest < 1e-4


@pytest.mark.parametrize("params", [{"nonsense": 1}, {"reg_lambda": "much"}])
def test_parameters_that_nobody_reads(binary, params):
    if binary.library == "catboost" and "reg_lambda" in params:
        params = {"l2_leaf_reg": "much"}
    with pytest.raises(InputError):
        binary.trace(params=params)


# Missing values and zeros.


@pytest.mark.parametrize("library", ["sklearn_gb"])
def test_missing_values_where_the_library_takes_none(library):
    case = Case(library, "logistic")
    holed = case.X.copy()
    holed.iloc[3, 1] = np.nan
    with pytest.raises(InputError, match="row 3"):
        case.trace(X=holed)


def test_another_mark_for_missing_values():
    """The file of an XGBoost model does not say that -999 stood for missing."""
    import xgboost

    case = Case("xgboost", "logistic")
    holed = case.X.copy()
    holed[np.random.default_rng(0).random(holed.shape) < 0.2] = -999.0
    model = xgboost.XGBClassifier(n_estimators=3, missing=-999.0, max_depth=3)
    model.fit(holed, case.y)
    assert trace(model, holed, case.y).provenance["leaf_error_largest"] < 1e-4
    params = {"reg_lambda": 1, "learning_rate": 0.3}
    with pytest.raises(TrainingDataError):
        trace(model.get_booster(), holed, case.y, params=params)
    told = {**params, "missing": -999.0}
    assert trace(model.get_booster(), holed, case.y, params=told).replay.error.largest < 1e-4


def test_zeros_that_a_sparse_matrix_leaves_out():
    """For XGBoost an absent entry is missing, not 0: rows of a dense model come out elsewhere."""
    import xgboost

    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 3)) * (rng.random((150, 3)) < 0.5)
    y = (X[:, 0] + (X[:, 1] == 0) + 0.3 * rng.normal(size=150) > 0.3).astype(int)
    dense = xgboost.XGBClassifier(n_estimators=3, max_depth=3).fit(X, y)
    with pytest.raises(TrainingDataError):
        trace(dense, scipy.sparse.csr_matrix(X), y)
    sparse = xgboost.XGBClassifier(n_estimators=3, max_depth=3).fit(scipy.sparse.csr_matrix(X), y)
    assert trace(sparse, scipy.sparse.csr_matrix(X), y).replay.error.largest < 1e-4
    holed = np.where(X == 0, np.nan, X)
    assert trace(sparse, holed, y).replay.error.largest < 1e-4


@pytest.mark.parametrize("library", ["xgboost", "sklearn_gb"])
def test_infinite_features(library):
    case = Case(library, "logistic")
    wild = case.X.copy()
    wild.iloc[5, 2] = np.inf
    with pytest.raises(InputError, match="row 5"):
        case.trace(X=wild)


def test_categories_unseen_in_training():
    """Refused where the library refuses, else the rows do not recompute."""
    import lightgbm
    import xgboost

    rng = np.random.default_rng(0)
    town = pd.Categorical(rng.choice(["Ulm", "Rom", "Bonn"], 200))
    X = pd.DataFrame({"x": rng.normal(size=200), "town": town})
    y = ((X["x"] > 0.3) | (X["town"] == "Rom")).astype(int)
    other = X.assign(town=pd.Categorical(rng.choice(["Oslo", "Paris"], 200)))
    model = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True).fit(X, y)
    with pytest.raises((InputError, TrainingDataError), match=r"unseen in training|leaf scale"):
        trace(model, other, y)  # before 3.1 a model knows codes only, and these are other rows
    model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, min_data_per_group=5).fit(X, y)
    with pytest.raises(TrainingDataError):
        trace(model, other, y)
    run = trace(model, X, y)
    predicted = model.predict(other[:20])
    assert list(run.predictions(other[:20])) == list(predicted), "unseen is missing, as there"
