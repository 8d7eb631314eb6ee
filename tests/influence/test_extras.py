"""Packages that are not installed: an import of None in sys.modules fails as one of them does."""

import argparse
import sys
from pathlib import Path

import pytest

from influence.cli import Found
from influence.cli.main import main
from influence.errors import MissingPackageError, StorageError
from influence.extras import check_installed, extras_named
from influence.lazy import exports
from influence.tables import read_table


def test_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skops", None)
    needed = pytest.raises(MissingPackageError, match=r"skops.*influence-toolkit\[trees\]")
    with needed, extras_named():
        import skops  # noqa: F401


def test_other_imports_fail_as_they_do() -> None:
    with pytest.raises(ModuleNotFoundError, match="nonsense"), extras_named():
        import nonsense  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"numpy\.nonsense"), extras_named():
        import numpy.nonsense  # type: ignore[import-not-found]  # noqa: F401


def test_an_installed_package_without_a_module_is_not_called_missing() -> None:
    error = ModuleNotFoundError("No module named 'torch.old'", name="torch.old")
    with pytest.raises(ModuleNotFoundError, match=r"torch\.old"), extras_named():
        raise error


def test_lazy_names_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "tree_influence.kernels", raising=False)
    get, _ = exports("tree_influence", {"tree_influence.kernels": ["nothing"]})
    with pytest.raises(MissingPackageError, match=r"numba.*influence-toolkit\[trees\]"):
        get("nothing")


class NeedsXGBoost:
    """A command that imports what is not there."""

    help = example = "influence needs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> Found:
        import xgboost  # noqa: F401

        return Found("never")

    def kept(self, args: argparse.Namespace) -> str:
        return "nothing"


def test_commands_say_what_they_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    assert main(["needs"], {"needs": NeedsXGBoost()}) == 2
    assert "influence-toolkit[xgboost]" in capsys.readouterr().err


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("influence.extras.installed", lambda package: False)
    with pytest.raises(MissingPackageError, match=r"pyarrow.*influence-toolkit\[trees\]"):
        read_table(str(tmp_path / "rows.parquet"))
    monkeypatch.undo()
    check_installed("pyarrow")
    with pytest.raises(StorageError, match=r"rows\.parquet"):
        read_table(str(tmp_path / "rows.parquet"))
