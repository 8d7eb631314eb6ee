"""What is known of each data set without having it: task, target, columns, licence, source.

The facts stand in registry.toml.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

FACTS = Path(__file__).with_name("registry.toml")


class UnknownDataSetError(LookupError):
    """No data set has this name."""


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        name: Its name here; also the name of its file and its card.
        description: The question it asks, in one sentence.
        task: What kind of target it has.
        target: Name of the target column.
        target_values: Class counts, or mean and standard deviation.
        n_rows: Number of rows.
        n_features: Number of feature columns.
        n_missing: Number of missing cells among the features.
        categorical: Names of the categorical columns; the others are numeric.
        licence: Licence of the data, or why it is not known.
        may_ship: True where the licence allows redistribution inside a package.
        source: Where the file comes from.
        note: What a user should know besides.
        bundled: scikit-learn's function that loads it; None if it is read from a folder.
    """

    name: str
    description: str
    task: Literal["binary", "multiclass", "regression"]
    target: str
    target_values: str
    n_rows: int
    n_features: int
    n_missing: int
    categorical: tuple[str, ...]
    licence: str
    may_ship: bool
    source: str
    note: str = ""
    bundled: str | None = None


def data_sets() -> Mapping[str, DataSet]:
    """All data sets by name."""
    facts = tomllib.loads(FACTS.read_text(encoding="utf-8"))
    return {
        name: DataSet(**{**entry, "name": name, "categorical": tuple(entry["categorical"])})
        for name, entry in facts.items()
    }


def find(name: str) -> DataSet:
    """The data set of this name.

    Raises:
        UnknownDataSetError: There is none; the message suggests the nearest name.
    """
    known = data_sets()
    if name in known:
        return known[name]
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(sorted(known))}."
    raise UnknownDataSetError(f"There is no data set {name!r}; {hint}")
