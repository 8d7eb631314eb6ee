"""Columns of a model's tables, and the tables the command line prints."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from influence.errors import InputError
from influence.top import TopInfluence


def take_column(table: Any, name: str, path: str) -> pd.Series:
    """One column by name."""
    if name not in table.columns:
        raise InputError(f"{path} has no column {name!r}; its columns are {list(table.columns)}.")
    return table[name]


def take_features(
    table: pd.DataFrame, names: Sequence[str] | None, other: Sequence[str | None], path: str
) -> Any:
    """The model's columns, by name where it knows names, else all that are not `other`.

    Args:
        table: The file's content.
        names: The model's column names; None, or names found nowhere in the file, if it was
            trained on a bare array.
        other: Columns that are no features (target, weight, label of the rows).
        path: For messages.
    """
    rest = table[[name for name in table.columns if name not in other]]
    if names is None or not set(names) & set(table.columns):
        return rest.to_numpy()
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise InputError(f"{path} lacks columns that the model was trained with: {missing[:10]}.")
    return table[list(names)]


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
