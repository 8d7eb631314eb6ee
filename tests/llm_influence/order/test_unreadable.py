"""Files and folders of a run that the system does not let us read or write."""

from pathlib import Path
from typing import Any

import pytest

from influence.errors import StorageError
from llm_influence import OptimizerRun
from tests.llm_influence.order.recorded import recorded


def denied(path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """As of a file whose permissions forbid this; root may do everything."""
    allowed = getattr(Path, method)

    def refuse(self: Path, *given: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(self, *given, **options)

    monkeypatch.setattr(Path, method, refuse)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("manifest.json", "is_file"),
        ("manifest.json", "read_text"),
        ("final.safetensors", "is_file"),
        ("final.safetensors", "open"),
        ("config.json", "open"),
    ],
)
def test_unreadable_is_not_damaged(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(n_batches=2).save(tmp_path / "run")
    denied(tmp_path / "run" / name, monkeypatch, method)
    with pytest.raises(StorageError, match=f"{name} cannot be read: Permission denied"):
        OptimizerRun.load(tmp_path / "run")


def test_a_closed_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied(tmp_path / "run", monkeypatch, "exists")
    with pytest.raises(StorageError, match=r"Could not write .*run: .*Permission denied"):
        recorded(n_batches=2).save(tmp_path / "run")
    assert not list(tmp_path.iterdir())
