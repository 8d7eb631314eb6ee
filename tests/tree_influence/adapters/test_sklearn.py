"""What GradientBoosting and HistGradientBoosting share: columns, refits, files and refusals."""

import json
import zipfile
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_files
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    RandomTreesEmbedding,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from influence import Without
from influence.errors import (
    InputError,
    NotFittedError,
    StorageError,
    TrainingDataError,
    UnsupportedModelError,
    UntrustedFileError,
)
from tests.tree_influence.adapters.sklearn_oracle import (
    TASKS,
    check_parity,
    decision,
    estimator,
    leaf_error,
    rows,
)
from tree_influence import LeafInfluence, retrainer, trace
from tree_influence.adapters import load, parse

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("kind", ["gb", "hist"])
class TestBoth:
    @pytest.mark.parametrize("names", [True, False])
    def test_columns_are_checked(self, kind, names):
        X, y = rows(7, 80, "regression")
        model = estimator(kind, "regression").fit(X if names else X.to_numpy(), y)
        adapter = parse(model)
        assert adapter.feature_names == (["x0", "x1", "x2"] if names else None)
        np.testing.assert_array_equal(adapter.features(X), adapter.features(X.to_numpy()))
        with pytest.raises(InputError, match="3 columns"):
            adapter.features(X[["x0", "x1"]])
        with pytest.raises(InputError, match="shape"):
            adapter.features(X["x0"].to_numpy())
        with pytest.raises(InputError, match=r"column (x1|1),.*dtype (str|object)"):
            adapter.features(X.assign(x1="text"))
        if names:
            with pytest.raises(InputError, match="column 'x1' at position 1, got 'x2'"):
                adapter.features(X[["x0", "x2", "x1"]])

    def test_constant_target_and_single_trees(self, kind):
        X, y = rows(8, 90, "regression")
        few = {"n_estimators": 1} if kind == "gb" else {"max_iter": 1}
        for target in (y, np.full(90, 2.5)):
            model = estimator(kind, "regression", **few).fit(X, target)
            check_parity(model, X)
            assert leaf_error(model, X, target) <= 1e-5

    @pytest.mark.parametrize("task", TASKS)
    def test_refit_trains_as_many_rounds(self, kind, task):
        X, y = rows(9, 300, task)
        stop = {"n_iter_no_change": 2} | ({"early_stopping": True} if kind == "hist" else {})
        adapter = parse(estimator(kind, task, random_state=0, **stop).fit(X, y))
        weight = np.random.default_rng(0).random(300)
        again = adapter.refit(X, y, weight)
        fewer = {"n_estimators" if kind == "gb" else "max_iter": adapter.ensemble.n_rounds}
        expected = estimator(kind, task, random_state=0, **fewer).fit(X, y, weight)
        np.testing.assert_array_equal(again.library_raw(again.features(X)), decision(expected, X))
        assert again.feature_names == adapter.feature_names
        if task != "regression":
            kept = y != y[0]
            with pytest.raises(InputError, match=f"class .*{y[0]}"):
                adapter.refit(X[kept], y[kept], None)

    def test_warm_start(self, kind):
        X, y = rows(9, 200, "regression")
        rounds = "n_estimators" if kind == "gb" else "max_iter"
        model = estimator(kind, "regression", warm_start=True, **{rounds: 3}).fit(X, y)
        model.set_params(**{rounds: 5}).fit(X, y)
        assert parse(model).ensemble.n_rounds == 5
        assert leaf_error(model, X, y) <= 1e-5
        assert trace(model, X, y).replay.error.largest <= 1e-4
        model.set_params(**{rounds: 7}, learning_rate=0.3).fit(X, y)
        with pytest.raises(TrainingDataError, match="differ"):
            trace(model, X, y)

    @pytest.mark.parametrize("task", TASKS)
    def test_saved_model(self, kind, task, tmp_path):
        X, y = rows(10, 200, task, categories=4 if kind == "hist" else 0)
        params = {"early_stopping": True} if kind == "hist" else {}
        model = estimator(kind, task, **params).fit(X, y)
        skops.io.dump(model, tmp_path / "model.skops")
        loaded = load(tmp_path / "model.skops")
        np.testing.assert_array_equal(decision(loaded, X), decision(model, X))
        check_parity(loaded, X)
        assert leaf_error(loaded, X, y) <= 1e-5

    def test_not_fitted(self, kind):
        with pytest.raises(NotFittedError, match="call fit"):
            parse(estimator(kind, "binary"))

    def test_params_are_refused(self, kind):
        X, y = rows(10, 60, "regression")
        with pytest.raises(InputError, match="eta"):
            parse(estimator(kind, "regression").fit(X, y), {"eta": 0.1})


JUDGES = {
    ("gb", "absolute_error"): lambda x: np.abs(x),
    ("gb", "quantile"): lambda x: np.maximum(0.9 * x, -0.1 * x),
    ("hist", "absolute_error"): lambda x: np.abs(x),
    ("hist", "quantile"): lambda x: np.maximum(0.3 * x, -0.7 * x),
}


@pytest.mark.parametrize(("kind", "loss"), JUDGES)
def test_renewed_leaves_are_judged_but_have_no_recipe(kind, loss):
    X, y = rows(11, 90, "regression")
    params = {"quantile": 0.3} if (kind, loss) == ("hist", "quantile") else {}
    model = estimator(kind, "regression", loss=loss, **params).fit(X, y)
    check_parity(model, X)
    run = trace(model, X, y)
    expected = JUDGES[kind, loss](y - model.predict(X))
    np.testing.assert_allclose(run.losses(run.queries(X, y)), expected, atol=1e-12)
    with pytest.raises(UnsupportedModelError, match=f"{loss}.*medians"):
        LeafInfluence().fit(run)
    effects = retrainer(run, X, y)(Without([0, 1]))
    assert np.abs(effects).max() > 0


@pytest.mark.parametrize("kind", ["gb", "hist", "forest", "extra"])
def test_refits_without_a_seed_differ_by_their_rows_alone(kind):
    X, y = rows(11, 90, "regression")
    few = {"max_iter" if kind == "hist" else "n_estimators": 3}
    adapter = parse(estimator(kind, "regression", max_features=0.4, **few).fit(X, y))
    first, second = (adapter.refit(X, y, None) for _ in range(2))
    np.testing.assert_array_equal(first.ensemble.leaf_value, second.ensemble.leaf_value)


def test_pipeline_round_trips(tmp_path):
    X, y = rows(13, 120, "binary", categories=4, missing=0.1)
    encode = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    columns = [("words", encode, ["word"]), ("rest", SimpleImputer(), ["x0", "x1"])]
    model = Pipeline(
        [("columns", ColumnTransformer(columns)), ("gb", GradientBoostingClassifier())]
    )
    skops.io.dump(model.fit(X, y), tmp_path / "pipeline.skops")
    loaded = load(tmp_path / "pipeline.skops")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    check_parity(loaded[-1], np.asarray(loaded[:-1].transform(X)))


@pytest.mark.parametrize("function", [json.loads, load_files])
def test_unknown_types_are_refused(function, tmp_path):
    X, y = rows(14, 60, "regression")
    model = GradientBoostingRegressor(n_estimators=1).fit(X, y)
    skops.io.dump(
        Pipeline([("f", FunctionTransformer(function)), ("m", model)]), tmp_path / "m.zip"
    )
    with pytest.raises(UntrustedFileError, match=rf"{function.__name__}.*trusted="):
        load(tmp_path / "m.zip")


def renamed(path, module, name, out):
    """A copy of a saved model in which the loss is of another type."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as changed:
        for entry in archive.namelist():
            content = archive.read(entry)
            if entry == "schema.json":
                told = json.loads(content)
                loss = told["content"]["content"]["_loss"]
                loss["__module__"], loss["__class__"] = module, name
                content = json.dumps(told).encode()
            changed.writestr(entry, content)


@pytest.mark.parametrize(
    ("module", "name"),
    [("_loss", "Anything"), ("sklearn._loss.loss", "np")],
)
def test_no_module_is_trusted_as_a_whole(module, name, tmp_path, monkeypatch):
    """A file that names `_loss` must not have a `_loss.py` of the folder imported."""
    X, y = rows(14, 60, "regression")
    skops.io.dump(GradientBoostingRegressor(n_estimators=1).fit(X, y), tmp_path / "m.zip")
    renamed(tmp_path / "m.zip", module, name, tmp_path / "evil.zip")
    (tmp_path / "_loss.py").write_text("raise SystemExit('ran code of the file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((UntrustedFileError, StorageError)):
        load(tmp_path / "evil.zip")


@pytest.mark.parametrize("place", ["init", "prefix"])
def test_trees_anywhere_in_a_file_are_checked(place, tmp_path):
    """Their node numbers are used unchecked in prediction, which would end the process."""
    X, y = rows(14, 60, "regression")
    inner = RandomForestRegressor(2, random_state=0)
    model: Any = GradientBoostingRegressor(n_estimators=1, init=inner if place == "init" else None)
    if place == "prefix":
        model = make_pipeline(RandomTreesEmbedding(2, sparse_output=False, random_state=0), model)
    model.fit(X, y)
    for member in (model.init_ if place == "init" else model[0]).estimators_:
        state = member.tree_.__getstate__()
        state["nodes"]["left_child"][0] = 2**40
        member.tree_.__setstate__(state)
    skops.io.dump(model, tmp_path / "m.zip")
    with pytest.raises(StorageError, match="outside the tree"):
        load(tmp_path / "m.zip")


def test_rounds_of_another_size(tmp_path):
    X, y = rows(14, 90, "multiclass")
    model = GradientBoostingClassifier(n_estimators=1).fit(X, y)
    model.n_trees_per_iteration_ = 1
    skops.io.dump(model, tmp_path / "m.zip")
    with pytest.raises(StorageError, match="trees a round"):
        parse(load(tmp_path / "m.zip"))


def test_damaged_files(tmp_path):
    X, y = rows(15, 90, "regression")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("notes.txt", "no model")
    with pytest.raises(StorageError, match=r"skops\.io\.dump"):
        load(tmp_path / "other.zip")
    for field, value in [("left", 10_000), ("right", 0), ("feature_idx", 99)]:
        model = HistGradientBoostingRegressor(max_iter=2).fit(X, y)
        model._predictors[1][0].nodes[field][0] = value
        with pytest.raises(StorageError, match="outside the tree"):
            parse(model)
