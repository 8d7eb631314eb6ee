"""Gives a data set as features and target: `fetch("adult")`, or `python datasets/fetch.py adult`.

Nothing is downloaded. Sets bundled with scikit-learn always work; the others are read from
INFLUENCE_DATA/datasets/tabular/NAME.csv.gz (comma separated, UTF-8, header row, target last, a
missing value is an empty field).
"""

import argparse
import os
import sys
from collections.abc import Hashable
from pathlib import Path

import pandas as pd

from registry import DataSet, UnknownDataSetError, data_sets, find


class DataFolderError(OSError):
    """The folder of data is not known, or does not hold the data set as the registry has it."""


def fetch(
    name: str, folder: str | os.PathLike[str] | None = None
) -> tuple[pd.DataFrame, pd.Series]:
    """Features and target of a data set.

    Args:
        name: A name of the registry.
        folder: The folder that holds datasets/; the environment variable INFLUENCE_DATA by default.

    Returns:
        X: Features, shape (n_rows, n_features); categorical columns have pandas' category dtype.
        y: Target, shape (n_rows,): numbers, or class labels as the source writes them.

    Raises:
        UnknownDataSetError: No data set has this name.
        DataFolderError: No folder was named, or the file is not there or is another one.
    """
    wanted = find(name)
    if wanted.bundled is not None:
        import sklearn.datasets

        table = getattr(sklearn.datasets, wanted.bundled)(as_frame=True).frame
    else:
        table = _read(wanted, _path(wanted, folder))
    y = table.pop(wanted.target)
    found, expected = table.shape, (wanted.n_rows, wanted.n_features)
    if found != expected:
        raise DataFolderError(
            f"{name} must have {expected[0]} rows and {expected[1]} features, got {found[0]} and "
            f"{found[1]}; the file is truncated or another version: see datasets/cards/{name}.md."
        )
    return table, y


def _path(wanted: DataSet, folder: str | os.PathLike[str] | None) -> Path:
    root = folder or os.environ.get("INFLUENCE_DATA")
    if not root:
        bundled = [known.name for known in data_sets().values() if known.bundled]
        raise DataFolderError(
            f"{wanted.name} is read from a folder of data, and none is named; set INFLUENCE_DATA "
            f"to the folder that holds datasets/tabular/{wanted.name}.csv.gz. "
            f"Always there: {', '.join(bundled)}."
        )
    path = Path(root) / "datasets" / "tabular" / f"{wanted.name}.csv.gz"
    if not path.is_file():
        raise DataFolderError(
            f"Expected {wanted.name} at {path}, but there is no such file; set INFLUENCE_DATA to a "
            f"folder that holds it, made as datasets/cards/{wanted.name}.md says."
        )
    return path


def _read(wanted: DataSet, path: Path) -> pd.DataFrame:
    # As strings first: "None" and "007" stay what they are.
    strings: dict[Hashable, str] = dict.fromkeys(wanted.categorical, "str")
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=strings)
        return table.astype(dict.fromkeys(wanted.categorical, "category"))
    except (EOFError, ValueError, KeyError, OSError) as error:
        raise DataFolderError(f"{path} cannot be read ({error}); it may be truncated.") from error


def main() -> int:
    """Prints what a data set looks like, or writes it as a CSV file with the target last."""
    parser = argparse.ArgumentParser(description="Show or write a data set.")
    parser.add_argument("name", help=f"one of {', '.join(sorted(data_sets()))}")
    parser.add_argument("--out", type=Path, help="write the table to this CSV file")
    args = parser.parse_args()
    try:
        X, y = fetch(args.name)
    except (DataFolderError, UnknownDataSetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = X.assign(**{str(y.name): y})
    if args.out is None:
        print(table)
    else:
        table.to_csv(args.out, index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
