"""Columns of a model's tables, and the tables the command line prints."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from influence.errors import InputError
from influence.top import TopInfluence
from tree_influence import adapters
from tree_influence.run import split_pipeline


@dataclass(frozen=True)
class FeatureNames:
    """Names of the columns a model or Pipeline takes.

    Attributes:
        names: As the model keeps them; None if it knows none.
        space: What stands in them for a space.
        library: Which library keeps them.
    """

    names: list[str] | None
    space: str = " "
    library: str = ""


def feature_names(model: Any) -> FeatureNames:
    """Names of the columns a model or Pipeline takes."""
    prefix, last = split_pipeline(model)
    if prefix is None:
        adapter = adapters.parse(last)
        return FeatureNames(adapter.feature_names, adapter.space, adapter.library)
    names = getattr(model, "feature_names_in_", None)
    return FeatureNames(None if names is None else list(names))


def take_column(table: Any, name: str, path: str) -> pd.Series:
    """One column by name."""
    if name not in table.columns:
        raise InputError(f"{path} has no column {name!r}; its columns are {list(table.columns)}.")
    return table[name]


def take_features(
    table: pd.DataFrame, known: FeatureNames, other: Sequence[str | None], path: str
) -> Any:
    """The model's columns, by name where it knows names, else all that are not `other`.

    Args:
        table: The file's content.
        known: The model's column names; none, or none found in the file, if it was trained on a
            bare array.
        other: Columns with another use (target, weight, label of the rows): features only where
            the model keeps their very name and no other column fits it.
        path: For messages.

    Raises:
        InputError: No column, or more than one, is what the model keeps under a name.
    """
    rest = table[[name for name in table.columns if name not in other]]
    kept = defaultdict(list)
    for own in rest.columns:
        kept[str(own).replace(" ", known.space)].append(own)
    plain = [name for name in other if known.space == " " or known.space not in str(name)]
    fits = {
        name: kept[name] or [own for own in table.columns if own == name and own in plain]
        for name in known.names or ()
    }
    if not any(fits.values()):
        return rest.to_numpy()
    _check_fits(fits, known, path)
    return table[[own for (own,) in fits.values()]]


def _check_fits(fits: Mapping[str, Sequence[Any]], known: FeatureNames, path: str) -> None:
    """One column for each name."""
    renames = known.space != " "
    saved = f" {known.library} saves a space in a name as {known.space!r}."
    missing = [name for name, own in fits.items() if not own]
    if missing:
        told = saved if renames and any(known.space in name for name in missing) else ""
        raise InputError(
            f"{path} lacks columns that the model was trained with: {missing[:10]}. Add them.{told}"
        )
    several = {name: own for name, own in fits.items() if len(own) > 1}
    if several:
        told = ", ".join(f"{name!r} by {own}" for name, own in [*several.items()][:10])
        raise InputError(
            f"Expected one column for each that the model was trained with, but {path} has "
            f"several: {told}. Keep the right one.{saved if renames else ''}"
        )


def side_by_side(top: TopInfluence, queries: pd.DataFrame) -> str:
    """The ranked rows of each query, proponents left and opponents right.

    Args:
        top: The ranking.
        queries: Facts on each query to head its table, in the order of the queries.
    """
    proponents, opponents = top.proponents(), top.opponents()
    lines = []
    for label, facts in zip(top.query_index, queries.to_dict("records"), strict=True):
        told = ", ".join(f"{name} {_short(value)}" for name, value in facts.items())
        lines += [f"query {label}: {told}", _HEAD]
        left, right = (
            list(frame.loc[frame["query"] == label, ["train", "influence"]].itertuples(index=False))
            for frame in (proponents, opponents)
        )
        for i in range(max(len(left), len(right))):
            cells = [_cell(*side[i]) if i < len(side) else " " * 28 for side in (left, right)]
            lines.append(f"{i + 1:>4}  {cells[0]}    {cells[1]}".rstrip())
        lines.append("")
    return "\n".join(lines)


_HEAD = f"{'':>4}  {'helpful row':>14} {'influence':>13}    {'harmful row':>14} {'influence':>13}"


def _cell(train: Any, influence: float) -> str:
    return f"{train!s:>14} {influence:>+13.4g}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
