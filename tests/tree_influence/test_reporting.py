"""The page about a tree model: its numbers are those of the API, for every library."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from influence import Without
from influence.errors import InputError, StorageError
from tests.browser import LOOKS, look_through
from tests.influence.report.pages import content
from tests.tree_influence import models
from tree_influence import (
    AXIL,
    BoostIn,
    InputSimilarity,
    LeafInfluence,
    LeafRefit,
    Random,
    TreeSim,
    report,
    trace,
)


def page_of(estimator, *queries, **options):
    """What the file holds, and what `report` returns."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        top = report(path, estimator, *queries, progress=False, **options)
        return content(path.read_text(encoding="utf-8")), top


@pytest.mark.parametrize("library", models.LIBRARIES)
@pytest.mark.parametrize("task", models.TASKS)
def test_a_page_holds_the_numbers_of_the_api(library, task):
    fitted = models.fit(library, task, weighted=False)
    run = trace(fitted.model, fitted.X, fitted.y)
    estimator = LeafInfluence().fit(run)
    page, top = page_of(estimator, fitted.X_test, fitted.y_test, k=4, refits=2)
    pd.testing.assert_frame_equal(
        top.proponents(), estimator.explain_top(fitted.X_test, fitted.y_test, k=4).proponents()
    )
    losses = run.losses(run.queries(fitted.X_test, fitted.y_test))
    worst = np.argsort(-losses, kind="stable")
    asked = pd.DataFrame(
        page["queries"]["facts"]["rows"], columns=page["queries"]["facts"]["names"]
    )
    np.testing.assert_allclose(asked["loss"], losses[worst])
    assert asked["truth"].tolist() == fitted.y_test[worst].tolist()
    np.testing.assert_allclose(
        asked["prediction"], np.ravel(fitted.model.predict(fitted.X_test))[worst], rtol=1e-5
    )
    first = estimator.explain(fitted.X_test, fitted.y_test).values[:, worst[0]]
    for place, value in page["answers"][0]["helpful"]:
        row = page["train"]["labels"][place]
        assert first[row] == pytest.approx(value, rel=1e-5)
        assert page["train"]["features"]["rows"][place] == pytest.approx(
            fitted.X[row][_order(page)]
        )
    assert page["answers"][0]["helpfulSums"][-1] == pytest.approx(first[first > 0].sum(), rel=1e-5)
    facts = pd.DataFrame(page["train"]["facts"]["rows"], columns=page["train"]["facts"]["names"])
    listed = np.array(page["train"]["labels"])
    np.testing.assert_allclose(
        facts["total"], estimator.explain(fitted.X_test, fitted.y_test).total()[listed]
    )
    np.testing.assert_allclose(facts["self-influence"], BoostIn().fit(run).self_influence()[listed])


def _order(page):
    return [
        int(name.rpartition(" ")[2].rpartition("_")[2].lstrip("f") or 0)
        for name in page["train"]["features"]["names"]
    ]


def test_what_is_said_without_rows_is_a_refit():
    fitted = models.fit("lightgbm", "logistic", n_trees=10, weighted=False)
    run = trace(fitted.model, fitted.X, fitted.y)
    page, top = page_of(LeafInfluence().fit(run), fitted.X_test, fitted.y_test, k=3, refits=1)
    query = page["queries"]["labels"][0]
    rows = top.proponents(3).query("query == @query")["train"].tolist()
    refit, one = LeafRefit().fit(run), (fitted.X_test[[query]], fitted.y_test[[query]])
    (helpful, _) = page["answers"][0]["without"]
    assert helpful["removed"] == [1, 3]
    effects = [refit.predict(Without(rows[:n]), *one)[0] for n in (1, 3)]
    before = run.losses(run.queries(*one))[0]
    np.testing.assert_allclose(helpful["losses"], before + effects, rtol=1e-4)
    says = [refit.predictions(Without(rows[:n]), *one)[0] for n in (1, 3)]
    assert helpful["says"] == says
    assert page["answers"][1]["without"] == []
    names = page["train"]["facts"]["names"]
    suspect = page["suspects"]["rows"][0]
    row = page["train"]["labels"][suspect]
    expected = refit.predictions(Without([row]), fitted.X[[row]], fitted.y[[row]])[0]
    assert page["train"]["facts"]["rows"][suspect][names.index("says without it")] == expected


def test_only_the_worst_queries_are_shown_and_that_is_said():
    fitted = models.fit("lightgbm", "squared", weighted=False)
    run = trace(fitted.model, fitted.X, fitted.y)
    page, top = page_of(BoostIn().fit(run), fitted.X_test, fitted.y_test, max_queries=2, max_rows=6)
    losses = run.losses(run.queries(fitted.X_test, fitted.y_test))
    assert page["queries"]["labels"] == np.argsort(-losses)[:2].tolist()
    assert "2 of 6 queries are shown" in page["notes"][0]
    assert len(page["suspects"]["rows"]) <= 6
    assert len(top.query_index) == 6


def test_without_truth_there_is_no_truth():
    fitted = models.fit("lightgbm", "logistic", weighted=False)
    estimator = BoostIn().fit(trace(fitted.model, fitted.X, fitted.y))
    said = fitted.model.predict(fitted.X_test)
    page, _ = page_of(estimator, fitted.X_test, said, has_truth=False)
    assert page["queries"]["facts"]["names"] == ["prediction", "loss"]


@pytest.mark.parametrize(
    "kind", ["sparse", "pandas", "polars", "arrow", "pool", "dmatrix", "dataset"]
)
def test_rows_of_any_container_are_shown(kind):
    library = {"pool": "catboost", "dmatrix": "xgboost"}.get(kind, "lightgbm")
    fitted = models.fit(library, "logistic", weighted=False)
    names = ["a", "b", "c", "d"]
    frame = pd.DataFrame(fitted.X, columns=pd.Index(names))
    asked = pd.DataFrame(fitted.X_test, columns=pd.Index(names))
    model, given, query = fitted.model, (frame, fitted.y), (asked, fitted.y_test)
    if kind == "sparse":
        given, query = (csr_matrix(fitted.X), fitted.y), (csr_matrix(fitted.X_test), fitted.y_test)
    elif kind == "polars":
        polars = pytest.importorskip("polars")
        given, query = (
            (polars.from_pandas(frame), fitted.y),
            (polars.from_pandas(asked), fitted.y_test),
        )
    elif kind == "arrow":
        import pyarrow

        given, query = ((pyarrow.Table.from_pandas(t), y) for t, y in (given, query))
    elif kind == "pool":
        import catboost

        given, query = (catboost.Pool(*given),), (catboost.Pool(*query),)
    elif kind == "dmatrix":
        import xgboost

        model = fitted.model.get_booster()
        given, query = (xgboost.DMatrix(*given),), (xgboost.DMatrix(*query),)
    elif kind == "dataset":
        import lightgbm

        model = fitted.model.booster_
        given = (lightgbm.Dataset(*given, free_raw_data=False),)
    page, _ = page_of(BoostIn().fit(model, *given), *query, refits=0)
    shown = np.array(page["train"]["features"]["rows"], dtype=float)
    rows = np.array(page["train"]["labels"], dtype=int)
    np.testing.assert_allclose(np.sort(shown, axis=1), np.sort(fitted.X[rows], axis=1), rtol=1e-6)


def test_missing_values_and_categories_are_shown_as_they_are():
    import lightgbm

    X = pd.DataFrame({"x": [1.0, np.nan] * 20, "c": pd.Categorical(["a", None, "b", "a"] * 10)})
    model = lightgbm.LGBMClassifier(n_estimators=3, min_child_samples=2, verbose=-1).fit(
        X, [0, 1] * 20
    )
    page, _ = page_of(BoostIn().fit(model, X, [0, 1] * 20), X[:4], [0, 1, 0, 1])
    columns = page["queries"]["features"]["names"]
    rows = {tuple(row) for row in page["queries"]["features"]["rows"]}
    order = [columns.index("x"), columns.index("c")]
    assert {tuple(row[i] for i in order) for row in rows} == {
        (1.0, "a"),
        (None, None),
        (1.0, "b"),
        (None, "a"),
    }
    spreads = dict(zip(columns, page["spreads"], strict=True))
    assert spreads == {"x": 0.0, "c": None}


def test_large_labels_stay_as_they_are():
    import lightgbm

    X, y, X_test, y_test = models.make_data("logistic")
    labels = np.array([10**17 + 1, 10**17 + 3])
    model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(X, labels[y])
    page, _ = page_of(BoostIn().fit(model, X, labels[y]), X_test, labels[y_test], refits=3)
    names, rows = page["train"]["facts"]["names"], page["train"]["facts"]["rows"]
    target, says = names.index("target"), names.index("says without it")
    known = {str(label) for label in labels}
    assert {row[target] for row in rows} == known
    assert {row[says] for row in rows} - {None} <= known
    assert [row[says] for row in rows].count(None) == len(rows) - 3


@pytest.mark.parametrize("task", models.TASKS)
def test_words_of_classes_are_of_pages_with_classes(task):
    fitted = models.fit("lightgbm", task, weighted=False)
    estimator = BoostIn().fit(trace(fitted.model, fitted.X, fitted.y))
    page, _ = page_of(estimator, fitted.X_test, fitted.y_test, refits=2)
    assert page["classes"] == (task != "squared")
    assert ("label" in page["suspects"]["told"]) == page["classes"]
    assert "«says without it»" in page["suspects"]["told"]
    page, _ = page_of(estimator, fitted.X_test, fitted.y_test, refits=0)
    assert "says without it" not in page["suspects"]["told"]
    assert "says without it" not in page["train"]["facts"]["names"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_infinite_values_have_no_part_in_the_spread():
    import lightgbm

    X, y = (
        np.array([[1.0, 0.0], [3.0, np.inf], [2.0, -np.inf], [np.nan, 2.0]] * 10),
        [0, 1, 1, 0] * 10,
    )
    model = lightgbm.LGBMClassifier(n_estimators=3, min_child_samples=2, verbose=-1).fit(X, y)
    page, _ = page_of(BoostIn().fit(model, X, y), X[:4], y[:4])
    features = pd.DataFrame(
        page["queries"]["features"]["rows"], columns=page["queries"]["features"]["names"]
    )
    assert set(features["feature 1"]) == {0.0, "inf", "-inf", 2.0}
    spreads = dict(zip(features.columns, page["spreads"], strict=True))
    assert spreads["feature 0"] == pytest.approx(np.std([1, 3, 2]), rel=1e-5)
    assert spreads["feature 1"] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["array", "frame", "catboost", "pipeline"])
def test_categories_that_are_numbers_have_no_spread(kind):
    import catboost
    import lightgbm
    from sklearn.pipeline import make_pipeline

    rng = np.random.default_rng(0)
    codes, x = rng.integers(0, 4, 80), rng.normal(size=80)
    X, y = pd.DataFrame({"code": codes, "x": x}), (codes == 2).astype(int)
    model = lightgbm.LGBMClassifier(
        n_estimators=3, min_child_samples=2, min_data_per_group=1, cat_smooth=0, verbose=-1
    )
    if kind == "array":
        X = X.to_numpy()
        model.fit(X, y, categorical_feature=[0])
    elif kind == "catboost":
        model = catboost.CatBoostClassifier(
            iterations=3, verbose=0, cat_features=["code"], one_hot_max_size=5, thread_count=1,
            allow_writing_files=False,
        ).fit(X, y)  # fmt: skip
    else:
        X = X.astype({"code": "category"})
        model = (make_pipeline("passthrough", model) if kind == "pipeline" else model).fit(X, y)
    page, _ = page_of(BoostIn().fit(trace(model, X, y)), X[:5], y[:5], refits=0)
    at = [name in ("code", "feature 0") for name in page["queries"]["features"]["names"]]
    spreads = np.array(page["spreads"], dtype=float)
    assert np.isnan(spreads).tolist() == at
    assert (
        page["queries"]["features"]["rows"][0][at.index(True)]
        == codes[page["queries"]["labels"][0]]
    )


def test_a_forest_is_shown_with_what_it_lacks():
    from sklearn.ensemble import RandomForestClassifier

    X, y, X_test, y_test = models.make_data("logistic")
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    page, _ = page_of(TreeSim().fit(trace(forest, X, y)), X_test, y_test)
    assert "self-influence" not in page["train"]["facts"]["names"]
    told = " ".join(page["notes"])
    assert "No self-influence" in told and "No predictions without rows" in told


def test_every_shape_of_estimator_and_target():
    fitted = models.fit("lightgbm", "squared", weighted=False)
    run = trace(fitted.model, fitted.X, fitted.y)
    for estimator in (LeafRefit(), InputSimilarity(), Random(seed=0)):
        _, top = page_of(estimator.fit(run), fitted.X_test, fitted.y_test, k=2, refits=1)
        values = estimator.explain(fitted.X_test, fitted.y_test)
        pd.testing.assert_frame_equal(top.proponents(), values.proponents(2))
    with pytest.raises(InputError, match="with explain, got AXIL"):
        page_of(AXIL().fit(run), fitted.X_test, fitted.y_test)
    import catboost

    Y = np.stack([fitted.y, -fitted.y], axis=1)
    model = catboost.CatBoostRegressor(
        iterations=3, loss_function="MultiRMSE", verbose=0, allow_writing_files=False
    ).fit(fitted.X, Y)
    page, _ = page_of(BoostIn().fit(trace(model, fitted.X, Y)), fitted.X_test, np.zeros((6, 2)))
    assert page["queries"]["facts"]["rows"][0][1] == "0, 0"


def test_a_thousand_classes():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1200, 2)), np.arange(1200) % 1000
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(1, max_depth=3, random_state=0).fit(X, y)
    page, _ = page_of(TreeSim().fit(trace(forest, X, y)), X[:3], y[:3])
    assert len(page["queries"]["labels"]) == 3


def test_bad_requests_are_refused_before_work(tmp_path):
    fitted = models.fit("lightgbm", "logistic", weighted=False)
    estimator = BoostIn().fit(trace(fitted.model, fitted.X, fitted.y))
    with pytest.raises(StorageError):
        report(tmp_path / "no" / "page.html", estimator, fitted.X_test, fitted.y_test)
    for option in ({"k": 0}, {"max_queries": 0}, {"refits": -1}, {"max_rows": 1.5}):
        with pytest.raises(InputError):
            page_of(estimator, fitted.X_test, fitted.y_test, **option)
    with pytest.raises(InputError):
        page_of(estimator, fitted.X_test[:0], fitted.y_test[:0])


def test_a_page_of_adult(browser, data_folder, tmp_path):
    from lightgbm import LGBMClassifier

    from fetch import fetch

    X, y = fetch("adult", data_folder)
    X, y = X[:4000], y[:4000]
    model = LGBMClassifier(n_estimators=40, verbose=-1).fit(X[:3500], y[:3500])
    estimator = LeafInfluence().fit(trace(model, X[:3500], y[:3500]))
    report(
        tmp_path / "adult.html",
        estimator,
        X[3500:],
        y[3500:],
        max_queries=40,
        refits=3,
        progress=False,
    )
    for size, dark in LOOKS:
        look_through(browser, tmp_path / "adult.html", "adult", size, dark)
