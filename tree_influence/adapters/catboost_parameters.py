"""Training parameters of a CatBoost model: what it stores, and what trains it again."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import catboost
import numpy as np
from numpy.typing import NDArray

from influence.errors import InputError, MissingParameterError

# What the stored parameters hold that is no part of the recipe.
NOT_RECIPE = {"use_best_model", "best_model_min_trees", "classes_count", "eval_fraction"}
# What the user gave that CatBoost leaves out of `get_all_params`, or writes so that it cannot read.
AS_GIVEN = {
    "has_time", "per_float_feature_quantization", "text_processing", "tokenizers", "dictionaries",
    "feature_calcers", "fold_permutation_block", "fold_len_multiplier", "simple_ctr",
    "combinations_ctr", "per_feature_ctr", "ctr_target_border_count",
}  # fmt: skip
NUMBERS = {"learning_rate", "l2_leaf_reg", "leaf_estimation_iterations", "model_shrink_rate"}
COLUMN = 2**20  # row numbers are split in two columns that float32 holds exactly


def stored_parameters(model: catboost.CatBoost) -> dict[str, Any]:
    """All training parameters, defaults and CatBoost's own choices included.

    A sum of models has lost all but the loss, if all had the same.
    """
    held = model.get_metadata()
    held = {name: held[name] for name in held}
    try:
        parameters = dict(model.get_all_params())
    except catboost.CatBoostError:
        loss = json.loads(held.get("loss_function", "{}"))
        options = ";".join(f"{name}={value}" for name, value in loss.get("params", {}).items())
        return {"loss_function": f"{loss['type']}:{options}".strip(":")} if "type" in loss else {}
    given = json.loads(held.get("params", "{}")).get("flat_params", {})
    return {**parameters, **{name: given[name] for name in AS_GIVEN & given.keys()}}


def check_given(params: Mapping[str, Any]) -> None:
    """Refuses names of the user's that CatBoost does not have, and texts where numbers belong."""
    accepted = inspect.signature(catboost.CatBoostClassifier.__init__).parameters
    for name, value in params.items():
        if name not in accepted:
            raise InputError(
                f"params names {name!r}, which is no training parameter of CatBoost; use its own "
                "names, such as learning_rate, l2_leaf_reg and leaf_estimation_iterations."
            )
        if name in NUMBERS and not isinstance(value, int | float | np.number):
            raise InputError(f"params[{name!r}] must be a number, got {value!r}.")


def known(parameters: Mapping[str, Any], name: str) -> Any:
    """A training parameter that cannot be done without."""
    if name not in parameters:
        raise MissingParameterError(
            f"The answer needs the training parameter {name}, which this CatBoost model does "
            f"not hold (a sum of models, or a file without its metadata): pass "
            f"params={{'{name}': ...}}."
        )
    return parameters[name]


def float32(number: float) -> float:
    """A parameter as CatBoost holds it; files write ten digits of it."""
    return float(np.float32(number))


def refit_parameters(
    parameters: Mapping[str, Any], n_trees: int, classes: NDArray[np.generic] | None
) -> dict[str, Any]:
    """The recipe as trained, with what CatBoost chose by itself (learning rate ...) fixed."""
    for name in ("loss_function", "learning_rate", "depth"):
        known(parameters, name)
    accepted = inspect.signature(catboost.CatBoostClassifier.__init__).parameters
    recipe = {
        name: value
        for name, value in parameters.items()
        if name in accepted and name not in NOT_RECIPE and value is not None
    }
    if recipe.get("auto_class_weights", "None") != "None":
        recipe.pop("class_weights", None)  # they follow from the rows
    if classes is not None:
        recipe["class_names"] = classes.tolist()
    recipe["learning_rate"] = float32(recipe["learning_rate"])
    recipe["iterations"] = n_trees
    return {**recipe, "verbose": False, "allow_writing_files": False}


def rows_trained_on(
    parameters: Mapping[str, Any], label: NDArray[np.generic], stratified: bool
) -> NDArray[np.bool_]:
    """Which rows eval_fraction left for training, by CatBoost's own split; shape (n_rows,).

    Args:
        parameters: Training parameters.
        label: Target as CatBoost was given it, shape (n_rows,) or (n_rows, n_targets).
        stratified: The split keeps the shares of the classes.
    """
    fraction = parameters.get("eval_fraction") or 0
    if not fraction:
        return np.full(len(label), True)
    number = np.arange(len(label))
    columns = np.column_stack([number // COLUMN, number % COLUMN]).astype(np.float32)
    shortest = float(str(np.float32(fraction)))  # 0.1 and not 0.10000000149
    kept, _ = catboost.Pool(columns, label).train_eval_split(
        bool(parameters.get("has_time", False)), stratified, shortest, False
    )
    high, low = kept.get_features().astype(np.int64).T
    trained = np.full(len(label), False)
    trained[high * COLUMN + low] = True
    return trained
