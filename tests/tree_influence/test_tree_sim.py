"""TreeSim against naive loops over the libraries' own leaves, paths and leaf values."""

import numpy as np
import pytest
from sklearn import ensemble

from influence import Relabelled
from influence.errors import InputError, UnsupportedModelError
from tests.tree_influence import models
from tree_influence import LeafInfluence, TreeSim, trace

X, SCORE, X_TEST, SCORE_TEST = models.make_data("squared", n_train=40, n_test=5)
LABEL, LABEL_TEST = (SCORE > 0).astype(int), (SCORE_TEST > 0).astype(int)
BOTH = np.concatenate([X, X_TEST])


def same_class(y, y_test):
    return np.where(y[:, None] == y_test, 1.0, -1.0)


def naive(phi, phi_test, weight, sides):
    """w_j s_jq phi_j . phi_q by loops."""
    out = np.zeros((len(phi), len(phi_test)))
    for j in range(len(phi)):
        for q in range(len(phi_test)):
            out[j, q] = weight[j] * sides[j, q] * sum(phi[j] * phi_test[q])
    return out


def one_hot(leaves, value):
    """Features of rows: `value(tree, leaf)` at each leaf, 0 elsewhere."""
    columns = []
    for t, row in enumerate(leaves):
        for leaf in np.unique(row):
            columns.append(np.where(row == leaf, value(t, leaf), 0.0))
    return np.column_stack(columns)


@pytest.mark.parametrize("library", models.LIBRARIES)
@pytest.mark.parametrize("kernel", ["leaf_path", "weighted_leaf_path"])
def test_shared_leaves(library, kernel):
    fitted = models.fit(library, "logistic")
    both = np.concatenate([fitted.X, fitted.X_test])
    leaves = models.library_leaves(library, fitted.model, both)
    n = len(fitted.y)

    def value(t, leaf):
        size = fitted.weight[leaves[t, :n] == leaf].sum()
        return 1.0 if kernel == "leaf_path" else 1 / size if size > 0 else 0.0

    phi = one_hot(leaves, value)
    expected = naive(phi[:n], phi[n:], fitted.weight, same_class(fitted.y, fitted.y_test))
    similarity = TreeSim(kernel).fit(fitted.model, fitted.X, fitted.y, fitted.weight)
    found = similarity.explain(fitted.X_test, fitted.y_test)
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert found.provenance.unit == "similarity"


FORESTS = {
    "forest": (ensemble.RandomForestClassifier, LABEL, LABEL_TEST),
    "extra trees": (ensemble.ExtraTreesRegressor, SCORE, SCORE_TEST),
    "boosting": (ensemble.GradientBoostingClassifier, LABEL, LABEL_TEST),
}


@pytest.fixture(params=FORESTS)
def forest(request):
    kind, y, y_test = FORESTS[request.param]
    model = kind(n_estimators=3, max_depth=3, random_state=0).fit(X, y)
    if y is LABEL:
        return model, y, y_test, same_class(y, y_test)
    away = y[:, None] - model.predict(X_TEST)
    return model, y, y_test, np.where(away * (y_test - model.predict(X_TEST)) >= 0, 1.0, -1.0)


@pytest.mark.parametrize("kernel", ["feature_path", "weighted_feature_path"])
def test_shared_paths(forest, kernel):
    model, y, y_test, sides = forest
    trees = np.ravel(model.estimators_)
    passed = np.column_stack([tree.decision_path(BOTH).toarray() for tree in trees]).astype(float)
    if kernel == "weighted_feature_path":
        passed /= np.maximum(passed[: len(y)].sum(axis=0), 1)
    expected = naive(passed[: len(y)], passed[len(y) :], np.ones(len(y)), sides)
    found = TreeSim(kernel).fit(model, X, y).explain(X_TEST, y_test).values
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kernel", ["leaf_output", "tree_output"])
def test_leaf_values(forest, kernel):
    model, y, y_test, sides = forest
    scale = model.learning_rate if hasattr(model, "learning_rate") else 1 / len(model.estimators_)
    phi = []
    for tree in np.ravel(model.estimators_):
        value, leaves = scale * tree.tree_.value[:, 0, :] * 1.0, tree.apply(BOTH)
        if value.shape[1] == 1 and y is LABEL:
            assert hasattr(model, "learning_rate")
        if kernel == "tree_output":
            phi.append(value[leaves])
        else:
            size = np.sqrt((value**2).sum(axis=1))
            phi.append(np.where(leaves[:, None] == np.arange(len(value)), size, 0.0))
    phi = np.column_stack(phi)
    expected = naive(phi[: len(y)], phi[len(y) :], np.ones(len(y)), sides)
    found = TreeSim(kernel).fit(model, X, y).explain(X_TEST, y_test).values
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def half_squared(y, score):
    return score - y, np.ones_like(y)


def lightgbm(**params):
    import lightgbm

    params |= {"verbose": -1, "min_child_samples": 3, "n_estimators": 3}
    if params.get("objective") == "lambdarank":
        return lightgbm.LGBMRanker(**params).fit(X, LABEL, group=[20, 20])
    return lightgbm.LGBMRegressor(**params).fit(X, SCORE)


def xgboost(**params):
    import xgboost

    if params.get("objective") == "rank:ndcg":
        return xgboost.XGBRanker(n_estimators=3, **params).fit(X, LABEL, qid=np.arange(40) // 20)
    return xgboost.XGBRegressor(n_estimators=3, **params).fit(X, SCORE)


def catboost(**params):
    import catboost

    model = catboost.CatBoost(
        params | {"iterations": 3, "verbose": 0, "allow_writing_files": False}
    )
    return model.fit(catboost.Pool(X, LABEL, group_id=np.arange(40) // 20))


WITHOUT_FORMULA = {
    "random forest": lambda: ensemble.RandomForestRegressor(5).fit(X, SCORE),
    "LightGBM dart": lambda: lightgbm(boosting_type="dart", drop_rate=0.9),
    "LightGBM quantile": lambda: lightgbm(objective="quantile"),
    "LightGBM custom": lambda: lightgbm(objective=half_squared),
    "LightGBM lambdarank": lambda: lightgbm(objective="lambdarank"),
    "XGBoost absolute error": lambda: xgboost(objective="reg:absoluteerror"),
    "XGBoost custom": lambda: xgboost(objective=half_squared),
    "XGBoost rank": lambda: xgboost(objective="rank:ndcg"),
    "CatBoost QueryRMSE": lambda: catboost(loss_function="QueryRMSE"),
    "CatBoost YetiRank": lambda: catboost(loss_function="YetiRank"),
}


@pytest.mark.parametrize("name", WITHOUT_FORMULA)
def test_models_without_a_leaf_formula_are_answered(name):
    model = WITHOUT_FORMULA[name]()
    ranks = any(word in name for word in ("rank", "Rank", "Query"))
    y = LABEL if ranks else SCORE
    run = trace(model, X, y)
    with pytest.raises(UnsupportedModelError, match="TreeSim"):
        LeafInfluence().fit(run)
    found = TreeSim().fit(run).explain(X[:3], y[:3])
    for q in range(3):
        assert found.values[q, q] > 0
        assert found.proponents(k=1)["influence"].to_numpy()[q] >= found.values[q, q]


def test_paths_are_refused_where_only_leaves_are_known():
    import catboost

    table = np.column_stack([np.digitize(X[:, 0], [-0.5, 0.5]).astype(str), X[:, 1]]).astype(object)
    model = catboost.CatBoostRegressor(
        iterations=3, one_hot_max_size=1, verbose=0, allow_writing_files=False, cat_features=[0]
    ).fit(table, SCORE)
    run = trace(model, table, SCORE, allow_inexact=True)
    with pytest.raises(UnsupportedModelError, match="weighted_leaf_path"):
        TreeSim("feature_path").fit(run)
    TreeSim().fit(run).explain(table[:2], SCORE[:2])


def test_an_unknown_kernel():
    with pytest.raises(InputError, match="tree_output"):
        TreeSim("rbf")


@pytest.mark.parametrize("name", ["forest", "extra trees"])
def test_other_labels(name):
    kind, y, y_test = FORESTS[name]
    model = kind(n_estimators=3, max_depth=3, random_state=0).fit(X, y)
    run = trace(model, X, y)
    similarity, rows = TreeSim().fit(run), [2, 5, 30]
    new = y.copy()
    new[rows] = 1 - new[rows]
    before = similarity.explain(X_TEST, y_test).values
    after = TreeSim().fit(trace(model, X, new)).explain(X_TEST, y_test).values
    found = similarity.predict(Relabelled(rows, new[rows]), X_TEST, y_test)
    np.testing.assert_allclose(found, (before - after)[rows].sum(axis=0), atol=1e-12)
