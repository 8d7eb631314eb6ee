"""CSV and Parquet in and out of the command line."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

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
