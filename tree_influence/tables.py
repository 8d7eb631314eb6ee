"""CSV and Parquet in and out of the command line, and the tables it prints."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from influence.errors import InputError, StorageError
from influence.top import TopInfluence


def read_table(path: str, text: Sequence[str] = (), fill: str | None = None) -> pd.DataFrame:
    """A CSV (also compressed) or Parquet file, the kind read off its name.

    Args:
        path: The file.
        text: CSV columns that are read as they are written, only empty fields as missing.
        fill: What to put where a column of text has no value; None leaves it missing.
    """
    try:
        if Path(path).suffix in (".parquet", ".pq"):
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path)
            if text:
                written = {"dtype": str, "keep_default_na": False, "na_values": [""]}
                table[list(text)] = pd.read_csv(path, usecols=list(text), **written)[list(text)]
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(
            f"Expected a CSV or Parquet file, but {path} cannot be read: {error}"
        ) from error
    if table.empty:
        raise InputError(f"Expected rows in {path}, but it has none.")
    if fill is not None:
        words = table.select_dtypes(include=["object", "string", "category"]).columns
        table[words] = table[words].astype(object).fillna(fill)
    return table


def make_folder(path: str) -> None:
    """Makes sure that results can be written, before any work."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / ".writable").touch()
        (Path(path) / ".writable").unlink()
    except OSError as error:
        raise StorageError(f"Cannot write results to {path}: {error}") from error


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


def write_results(folder: str, top: TopInfluence, queries: pd.DataFrame) -> list[Path]:
    """Writes the ranking, the queries, the result itself and its provenance to a folder.

    The ranking goes to Parquet where pyarrow is installed, and to CSV always.
    """
    out = Path(folder)
    try:
        frame = pd.concat(
            [top.proponents().assign(side="proponent"), top.opponents().assign(side="opponent")]
        )
        frame = frame[["query", "side", "rank", "train", "influence"]]
        frame.to_csv(out / "influence.csv", index=False)
        queries.to_csv(out / "queries.csv", index_label="query")
        provenance = json.dumps(asdict(top.provenance), indent=2)
        (out / "provenance.json").write_text(provenance + "\n")
        written = [out / name for name in ("influence.csv", "queries.csv", "provenance.json")]
        if _has_parquet():
            frame.to_parquet(out / "influence.parquet", index=False)
            written.append(out / "influence.parquet")
    except OSError as error:
        raise StorageError(f"Could not write results to {folder}: {error}") from error
    top.save(out / "influence.npz")
    return [*written, out / "influence.npz"]


def _has_parquet() -> bool:
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None
