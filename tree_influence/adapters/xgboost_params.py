"""Training parameters that an XGBoost model's file does not hold, as the user gives them."""

from collections.abc import Mapping
from typing import Any

from influence.errors import InputError

_SHORT_NAMES = {"reg_lambda": "lambda", "learning_rate": "eta", "reg_alpha": "alpha"}
_NUMBERS = (
    "lambda", "eta", "alpha", "max_delta_step", "subsample", "min_child_weight", "missing",
)  # fmt: skip
BOUNDS = "monotone_constraints"


def read_params(params: Mapping[str, Any]) -> dict[str, float]:
    """Parameters the user gives, by XGBoost's short name; of bounds only whether there are any.

    Raises:
        InputError: A name that is not read, or a value that is no number.
    """
    given = {}
    for name, value in params.items():
        short = _SHORT_NAMES.get(name, name)
        if short == BOUNDS:
            told = list(value.values()) if isinstance(value, Mapping) else value
            given[short] = float("1" in str(told))
            continue
        if short not in _NUMBERS:
            raise InputError(
                f"params names {name!r}, on which no answer depends; known are "
                f"{', '.join([*_SHORT_NAMES, *_NUMBERS, BOUNDS])}."
            )
        try:
            given[short] = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"params[{name!r}] must be a number, got {value!r}.") from error
    return given
