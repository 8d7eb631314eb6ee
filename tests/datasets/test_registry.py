"""The registry, its cards, the fetched tables and the planted ones agree with each other."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cards import CARDS, card
from fetch import DataFolderError, fetch
from generators import credit_table, planted_table
from registry import UnknownDataSetError, data_sets, find

SETS = data_sets()
BUNDLED = [name for name, entry in SETS.items() if entry.bundled]
READ = [name for name, entry in SETS.items() if not entry.bundled]


def check_facts(name: str, X: pd.DataFrame, y: pd.Series) -> None:
    entry = SETS[name]
    assert X.shape == (entry.n_rows, entry.n_features)
    assert X.isna().sum().sum() == entry.n_missing, "an empty field is not read as missing"
    categorical = [column for column in X if X[column].dtype == "category"]
    assert sorted(categorical) == sorted(entry.categorical)
    numeric = X.drop(columns=categorical)
    assert all(dtype.kind in "if" for dtype in numeric.dtypes), "a column is categorical, unlisted"
    if entry.task == "regression":
        stated = f"mean {y.mean():.4g}, standard deviation {y.std():.4g}"
    else:
        listed = entry.target_values.split(", ")
        counts = {str(label): count for label, count in y.value_counts().items()}
        stated = ", ".join(
            f"{label}: {counts[label]}" for label in (item.rsplit(": ", 1)[0] for item in listed)
        )
        assert len(listed) == len(counts)
    assert stated == entry.target_values


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_sets_are_as_registered(name: str) -> None:
    check_facts(name, *fetch(name))


@pytest.mark.parametrize("name", READ)
def test_sets_of_the_data_folder_are_as_registered(name: str, data_folder: Path) -> None:
    check_facts(name, *fetch(name, data_folder))


@pytest.mark.parametrize("name", SETS)
def test_the_card_is_up_to_date(name: str) -> None:
    written = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert written == card(SETS[name]), "run: python datasets/cards.py"


def test_every_card_belongs_to_a_data_set() -> None:
    assert {path.stem for path in CARDS.iterdir()} == set(SETS)


def test_without_a_data_folder_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFLUENCE_DATA", raising=False)
    with pytest.raises(DataFolderError, match="set INFLUENCE_DATA"):
        fetch("adult")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match=r"adult\.csv\.gz, but there is no such file"):
        fetch("adult", tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\x00", b"not compressed"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "datasets" / "tabular" / "adult.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DataFolderError, match="may be truncated"):
        fetch("adult", tmp_path)


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(UnknownDataSetError, match="did you mean 'adult'"):
        find("adlut")


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_planted_rows_are_the_wrong_ones(task) -> None:
    table = planted_table(400, seed=3, task=task, missing=0.1, wrong=0.2)
    changed = np.flatnonzero(table.y.to_numpy() != table.true_y.to_numpy())
    assert changed.tolist() == table.wrong.tolist() and len(changed) == 80
    share = table.X.isna().to_numpy().mean()
    assert 0.07 < share < 0.13
    again = planted_table(400, seed=3, task=task, missing=0.1, wrong=0.2)
    pd.testing.assert_frame_equal(table.X, again.X)
    pd.testing.assert_series_equal(table.y, again.y)


def test_credit_tables_hold_what_was_planted() -> None:
    table = credit_table(400, seed=3, wrong=0.2)
    changed = np.flatnonzero(table.y.to_numpy() != table.true_y.to_numpy())
    assert changed.tolist() == table.wrong.tolist() and len(changed) == 80
    assert (table.true_y == "default").sum() == 120
    assert (table.X["age"] - table.X["job_years"]).min() >= 18
    late = table.X["late_payments"]
    assert late[table.true_y == "default"].mean() > late[table.true_y == "repaid"].mean()
    pd.testing.assert_frame_equal(table.X, credit_table(400, seed=3, wrong=0.2).X)
    with pytest.raises(ValueError, match="share"):
        credit_table(10, seed=0, wrong=1.0)
