"""Checks of plain arguments, with messages that name them."""

from typing import Any

import numpy as np

from influence.errors import InputError


def check_whole(name: str, value: Any, least: int = 0) -> None:
    """Refuses what is no whole number from `least` on, for counts, positions and seeds."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise InputError(f"{name} must be a whole number from {least} on, got {value!r}.")


def check_share(name: str, value: Any) -> None:
    """Refuses what is no share of the rows strictly between none and all."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < value < 1:
        raise InputError(f"{name} must be a share strictly between 0 and 1, got {value!r}.")


def check_positive(name: str, value: Any, *, zero: bool = False) -> None:
    """Refuses what is no finite number above 0, or from 0 on where `zero` is allowed."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not (0 < value < np.inf or (zero and value == 0)):
        wanted = "from 0 on" if zero else "above 0"
        raise InputError(f"{name} must be a finite number {wanted}, got {value!r}.")
