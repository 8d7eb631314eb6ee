"""The model of each library, on one thread: trainings run beside each other instead."""

from typing import Any

from benchmarks.study.scales import Scale


def make(library: str, task: str, scale: Scale, seed: int) -> Any:
    """An unfitted estimator.

    Args:
        library: "lightgbm", "xgboost", "catboost" or "sklearn".
        task: "binary", "multiclass" or "regression".
        scale: Number of trees and leaves.
        seed: Seed of the library.
    """
    return MAKERS[library](task == "regression", scale, seed)


def _lightgbm(regression: bool, scale: Scale, seed: int) -> Any:
    import lightgbm

    kind = lightgbm.LGBMRegressor if regression else lightgbm.LGBMClassifier
    return kind(
        n_estimators=scale.n_trees, num_leaves=scale.n_leaves, reg_lambda=1.0,
        min_child_samples=5, n_jobs=1, random_state=seed, deterministic=True, verbose=-1,
    )  # fmt: skip


def _xgboost(regression: bool, scale: Scale, seed: int) -> Any:
    import xgboost

    kind = xgboost.XGBRegressor if regression else xgboost.XGBClassifier
    return kind(
        n_estimators=scale.n_trees, max_leaves=scale.n_leaves, max_depth=0, reg_lambda=1.0,
        learning_rate=0.1, grow_policy="lossguide", tree_method="hist", n_jobs=1,
        random_state=seed,
    )  # fmt: skip


def _catboost(regression: bool, scale: Scale, seed: int) -> Any:
    import catboost

    kind = catboost.CatBoostRegressor if regression else catboost.CatBoostClassifier
    return kind(
        iterations=scale.n_trees, depth=(scale.n_leaves + 1).bit_length() - 1, learning_rate=0.1,
        leaf_estimation_iterations=1, bootstrap_type="No", thread_count=1, random_seed=seed,
        verbose=False, allow_writing_files=False,
    )  # fmt: skip


def _sklearn(regression: bool, scale: Scale, seed: int) -> Any:
    from sklearn import ensemble

    kind: Any = ensemble.HistGradientBoostingClassifier
    if regression:
        kind = ensemble.HistGradientBoostingRegressor
    return kind(
        max_iter=scale.n_trees, max_leaf_nodes=scale.n_leaves, min_samples_leaf=5,
        l2_regularization=1.0, early_stopping=False, random_state=seed,
    )  # fmt: skip


MAKERS = {
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
    "catboost": _catboost,
    "sklearn": _sklearn,
}
