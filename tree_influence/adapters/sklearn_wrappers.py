"""Estimators of scikit-learn that cannot be answered as they are, and what to pass instead."""

from influence.errors import UnsupportedModelError

EXPECTED = "GradientBoosting*, HistGradientBoosting*, RandomForest* or ExtraTrees*"

# By the name of the estimator or of the class it is built on; members i counted from 0.
INSTEAD = {
    "Pipeline": "pass its last step, and features transformed by the earlier ones",
    "BaseSearchCV": "pass model.best_estimator_",
    "BaseThresholdClassifier": "pass model.estimator_",
    "CalibratedClassifierCV": "pass model.calibrated_classifiers_[i].estimator, with the rows it "
    "was fitted on: all but fold i of cv, or all rows where ensemble=False",
    "TransformedTargetRegressor": "pass model.regressor_, with the target "
    "model.transformer_.transform(y[:, None])[:, 0]",
    "VotingClassifier": "pass model.estimators_[i], with the target model.le_.transform(y)",
    "VotingRegressor": "pass model.estimators_[i], with the same rows",
    "StackingClassifier": "pass model.estimators_[i], with the target "
    "model.classes_.searchsorted(y)",
    "StackingRegressor": "pass model.estimators_[i], with the same rows",
    "BaggingClassifier": "pass model.estimators_[i], with the rows of "
    "model.estimators_samples_[i], the columns of model.estimators_features_[i] and the target "
    "model.classes_.searchsorted(y)",
    "BaggingRegressor": "pass model.estimators_[i], with the rows of model.estimators_samples_[i] "
    "and the columns of model.estimators_features_[i]",
    "OneVsRestClassifier": "pass model.estimators_[i], with the target (y == model.classes_[i])",
    "OneVsOneClassifier": "pass one of model.estimators_, with the rows of its two classes and "
    "the target (y == the second of them)",
    "OutputCodeClassifier": "fit a classifier of several classes itself",
    "_MultiOutputEstimator": "pass model.estimators_[i], with the target y[:, i]",
    "_BaseChain": "pass model.estimators_[i], with the earlier targets as last columns",
    "SelfTrainingClassifier": "pass model.estimator_, with the rows and labels of "
    "model.transduction_ that are not -1",
    "RFE": "pass model.estimator_, with the features model.transform(X)",
    "RANSACRegressor": "pass model.estimator_, with the rows of model.inlier_mask_",
    "BaseWeightBoosting": "the weights of its rounds are not kept, so its members cannot be traced "
    "either; fit GradientBoostingClassifier(loss='exponential') instead",
    "IsolationForest": "it learns from no target, so there is no loss to explain",
    "RandomTreesEmbedding": "it learns from no target, so there is no loss to explain",
    "DecisionTreeClassifier": "fit RandomForestClassifier(n_estimators=1, bootstrap=False, "
    "max_features=None), which grows the same kind of tree",
    "DecisionTreeRegressor": "fit RandomForestRegressor(n_estimators=1, bootstrap=False), "
    "which grows the same kind of tree",
}


def refusal(model: object) -> UnsupportedModelError:
    """Why an estimator is not answered, and what to do."""
    ancestors = [ancestor.__name__ for ancestor in type(model).__mro__]
    advice = [INSTEAD[ancestor] for ancestor in ancestors if ancestor in INSTEAD]
    return UnsupportedModelError(
        f"Expected {EXPECTED} of scikit-learn, got {type(model).__name__}; "
        + (advice[0] if advice else "no other estimator of scikit-learn can be answered")
        + "."
    )
