"""CSV and Parquet in and out of the command line."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from influence.errors import InputError, StorageError
from influence.extras import check_installed, installed
from influence.replacing import replaceable, replacing
from influence.result import Influence
from influence.top import TopInfluence


def read_table(path: str, text: Sequence[str] = (), fill: str | None = None) -> pd.DataFrame:
    """A CSV (also compressed) or Parquet file, the kind read off its name.

    Args:
        path: The file.
        text: CSV columns that are read as they are written, only empty fields as missing.
        fill: What to put where a column of text has no value; None leaves it missing.

    Raises:
        StorageError: The file cannot be read.
        MissingPackageError: It is a Parquet file and pyarrow is not installed.
        InputError: It has no rows.
    """
    is_parquet = Path(path).suffix in (".parquet", ".pq")
    if is_parquet:
        check_installed("pyarrow")
    try:
        if is_parquet:
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
    frame = ranking(top)
    names = ["influence.csv", "queries.csv", "provenance.json", "influence.npz"]
    with together(folder) as part:
        frame.to_csv(part / "influence.csv", index=False)
        queries.to_csv(part / "queries.csv", index_label="query")
        provenance = json.dumps(asdict(top.provenance), indent=2)
        (part / "provenance.json").write_text(provenance + "\n")
        top.save(part / "influence.npz")
        if installed("pyarrow"):
            frame.to_parquet(part / "influence.parquet", index=False)
            names.insert(3, "influence.parquet")
    return [Path(folder) / name for name in names]


def ranking(top: Influence | TopInfluence) -> pd.DataFrame:
    """Proponents and opponents of all queries in one table, `side` telling which."""
    frame = pd.concat(
        [top.proponents().assign(side="proponent"), top.opponents().assign(side="opponent")]
    )
    return frame.reindex(columns=["query", "side", "rank", "train", "influence"])


def labelled(facts: pd.DataFrame) -> pd.DataFrame:
    """Facts on queries with the queries' labels as a column, for a document."""
    return facts.rename_axis("query").reset_index()


@contextmanager
def together(folder: str | Path) -> Iterator[Path]:
    """An empty folder for files, which come into another one only when all are complete.

    Raises:
        StorageError: They cannot be written, or one that is there is no file or is read-only.
    """
    import shutil
    from tempfile import TemporaryDirectory

    target = Path(folder)
    try:
        with TemporaryDirectory(prefix=".part-", dir=folder) as part:
            yield Path(part)
            made = sorted(Path(part).iterdir())
            for path in made:
                target = Path(folder) / path.name
                replaceable(target)
            for path in made:
                with replacing(Path(folder) / path.name) as moved:
                    shutil.move(path, moved)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"Could not write {target}: {error.strerror or error}.") from error
