"""One file for each library; a new library is one more file and one more line in `LIBRARIES`."""

import importlib
import os
from typing import Any

from influence.errors import UnsupportedModelError
from influence.extras import extras_named
from tree_influence.adapters.base import Adapter
from tree_influence.adapters.files import kind_of_file

LIBRARIES = {
    "lightgbm": "tree_influence.adapters.lightgbm",
    "xgboost": "tree_influence.adapters.xgboost",
    "catboost": "tree_influence.adapters.catboost",
    "sklearn": "tree_influence.adapters.sklearn",
}


def load(path: str | os.PathLike[str]) -> Any:
    """Loads a saved model with its own library; the kind is read off the file, not its name.

    Raises:
        MissingPackageError: The library is not installed.
    """
    library = LIBRARIES[kind_of_file(path)]
    with extras_named():
        return importlib.import_module(library).load(path)


def parse(model: Any, params: dict[str, Any] | None = None) -> Adapter:
    """Reads a fitted model of any library in `LIBRARIES`.

    Args:
        model: Estimator or native booster.
        params: Training parameters that a saved model does not hold.

    Raises:
        UnsupportedModelError: The model is of no library known here, or of a kind that cannot be
            answered.
        NotFittedError: The model has not been fitted.
    """
    for ancestor in type(model).__mro__:
        library = ancestor.__module__.split(".")[0]
        if library in LIBRARIES:
            return importlib.import_module(LIBRARIES[library]).parse(model, params or {})
    raise UnsupportedModelError(
        f"Expected a model of {', '.join(LIBRARIES)} or the path of a saved one, got a "
        f"{type(model).__module__}.{type(model).__qualname__}."
    )
