"""Estimators around boosting: refused by name, and the way out that the message names works."""

import numpy as np
import pytest
from sklearn import ensemble, multiclass, multioutput, tree
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
)
from sklearn.feature_selection import RFE
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, RANSACRegressor
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from influence.errors import NotFittedError, UnsupportedModelError
from tests.tree_influence.adapters.sklearn_oracle import rows
from tree_influence import trace
from tree_influence.adapters import parse

GB = GradientBoostingClassifier(n_estimators=2, random_state=0)
REG = GradientBoostingRegressor(n_estimators=2, random_state=0)
FOLDS = StratifiedKFold(3)


def fold(X, y, i=1):
    train = list(FOLDS.split(X, y))[i][0]
    return X[train], y[train]


def same(model, X, y):
    return X, y


def coded(model, X, y):
    return X, model.classes_.searchsorted(y)


# The wrapper, its task, what its message names, the member and the rows it was fitted on.
WAYS_OUT = [
    (GridSearchCV(GB, {"max_depth": [1, 2]}), "binary", "best_estimator_",
     lambda m: m.best_estimator_, same),
    (RandomizedSearchCV(GB, {"max_depth": [1, 2]}, n_iter=1), "binary", "best_estimator_",
     lambda m: m.best_estimator_, same),
    (FixedThresholdClassifier(GB), "binary", "estimator_", lambda m: m.estimator_, same),
    (TunedThresholdClassifierCV(GB, refit=True), "binary", "estimator_",
     lambda m: m.estimator_, same),
    (CalibratedClassifierCV(GB, cv=FOLDS), "multiclass", r"calibrated_classifiers_\[i\]",
     lambda m: m.calibrated_classifiers_[1].estimator, lambda m, X, y: fold(X, y)),
    (CalibratedClassifierCV(GB, cv=FOLDS, ensemble=False), "binary", "all rows where ensemble",
     lambda m: m.calibrated_classifiers_[0].estimator, same),
    (TransformedTargetRegressor(REG, func=np.tanh, inverse_func=np.arctanh, check_inverse=False),
     "regression", "transformer_",
     lambda m: m.regressor_, lambda m, X, y: (X, m.transformer_.transform(y[:, None])[:, 0])),
    (ensemble.VotingClassifier([("a", GB), ("b", LogisticRegression())]), "multiclass", "le_",
     lambda m: m.estimators_[0], lambda m, X, y: (X, m.le_.transform(y))),
    (ensemble.VotingRegressor([("a", REG)]), "regression", "estimators_",
     lambda m: m.estimators_[0], same),
    (ensemble.StackingClassifier([("a", GB)]), "binary", "searchsorted",
     lambda m: m.estimators_[0], coded),
    (ensemble.StackingRegressor([("a", REG)]), "regression", "estimators_",
     lambda m: m.estimators_[0], same),
    (ensemble.BaggingClassifier(GB, 3, random_state=0, max_features=2), "multiclass",
     "estimators_samples_", lambda m: m.estimators_[1],
     lambda m, X, y: (X[m.estimators_samples_[1]][:, m.estimators_features_[1]],
                      coded(m, X, y)[1][m.estimators_samples_[1]])),
    (ensemble.BaggingRegressor(REG, 3, random_state=0), "regression", "estimators_samples_",
     lambda m: m.estimators_[1],
     lambda m, X, y: (X[m.estimators_samples_[1]], y[m.estimators_samples_[1]])),
    (multiclass.OneVsRestClassifier(GB), "multiclass", r"y == model.classes_\[i\]",
     lambda m: m.estimators_[2], lambda m, X, y: (X, (y == m.classes_[2]).astype(int))),
    (multiclass.OneVsOneClassifier(GB), "multiclass", "two classes",
     lambda m: m.estimators_[0],
     lambda m, X, y: (X[y != m.classes_[2]], (y == m.classes_[1])[y != m.classes_[2]] + 0)),
    (multioutput.MultiOutputRegressor(REG), "targets", r"y\[:, i\]",
     lambda m: m.estimators_[1], lambda m, X, y: (X, y[:, 1])),
    (multioutput.RegressorChain(REG), "targets", "earlier targets",
     lambda m: m.estimators_[1], lambda m, X, y: (np.column_stack([X, y[:, 0]]), y[:, 1])),
    (SelfTrainingClassifier(GB), "half", "transduction_", lambda m: m.estimator_,
     lambda m, X, y: (X[m.transduction_ != -1], m.transduction_[m.transduction_ != -1])),
    (RFE(GB, n_features_to_select=2), "binary", r"transform\(X\)", lambda m: m.estimator_,
     lambda m, X, y: (m.transform(X), y)),
    (RANSACRegressor(REG, min_samples=40, random_state=0), "regression", "inlier_mask_",
     lambda m: m.estimator_, lambda m, X, y: (X[m.inlier_mask_], y[m.inlier_mask_])),
]  # fmt: skip


def draw(task):
    X, y = rows(3, 120, "regression" if task == "targets" else task.replace("half", "binary"))
    if task == "targets":
        return X.to_numpy(), np.column_stack([y, y**2])
    if task == "half":
        y = (y == "yes").astype(int)
        y[::2] = -1
    return X.to_numpy(), y


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("wrapper", "task", "says", "member", "its_rows"),
    WAYS_OUT,
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else "",
)
def test_the_way_out_works(wrapper, task, says, member, its_rows):
    X, y = draw(task)
    model = wrapper.fit(X, y)
    with pytest.raises(UnsupportedModelError, match=says) as caught:
        trace(model, X, y)
    assert type(wrapper).__name__ in str(caught.value)
    run = trace(member(model), *its_rows(model, X, y))
    assert run.replay.error.largest <= 1e-6, "the message names other rows than it was fitted on"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (ensemble.AdaBoostClassifier(), "exponential"),
        (ensemble.AdaBoostRegressor(), "weights"),
        (ensemble.IsolationForest(), "no target"),
        (ensemble.RandomTreesEmbedding(), "no target"),
        (tree.DecisionTreeClassifier(), "RandomForestClassifier"),
        (tree.ExtraTreeRegressor(), "RandomForestRegressor"),
        (LinearRegression(), "no other estimator"),
        (make_pipeline(StandardScaler(), GB), "last step"),
    ],
)
def test_others_are_refused_by_name(model, says):
    with pytest.raises(UnsupportedModelError, match=f"{type(model).__name__}.*{says}"):
        parse(model)


def test_a_forest_of_one_tree_is_the_tree():
    X, y = draw("binary")
    alone = tree.DecisionTreeClassifier(random_state=0).fit(X, y)
    forest = ensemble.RandomForestClassifier(n_estimators=1, bootstrap=False, max_features=None)
    np.testing.assert_array_equal(forest.fit(X, y).predict(X), alone.predict(X))


def test_frozen_estimators_are_unwrapped():
    X, y = draw("binary")
    inner = HistGradientBoostingClassifier(max_iter=2).fit(X, y)
    assert trace(FrozenEstimator(inner), X, y).fingerprint == trace(inner, X, y).fingerprint
    calibrated = CalibratedClassifierCV(FrozenEstimator(inner)).fit(X, y)
    run = trace(calibrated.calibrated_classifiers_[0].estimator, X, y)
    assert run.fingerprint == trace(inner, X, y).fingerprint
    with pytest.raises(UnsupportedModelError, match="LinearRegression"):
        parse(FrozenEstimator(LinearRegression().fit(X, y == "yes")))
    with pytest.raises(UnsupportedModelError, match=r"Pipeline; pass model\.estimator"):
        parse(FrozenEstimator(make_pipeline(StandardScaler(), inner)))
    with pytest.raises(NotFittedError):
        parse(FrozenEstimator(GB))


def test_estimators_of_the_users_own_are_read_as_what_they_are_built_on():
    class Mine(HistGradientBoostingClassifier):
        pass

    X, y = draw("binary")
    assert trace(Mine(max_iter=2).fit(X, y), X, y).replay.error.largest <= 1e-4
