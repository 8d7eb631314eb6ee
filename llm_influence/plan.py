"""`Plan`: what a store is of, and the manifest that keeps it."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influence.errors import InputError, StorageError
from influence.run import fingerprint
from llm_influence import shard as files
from llm_influence.shard import RowType

FORMAT = 1
MANIFEST = "manifest.json"
PROJECTION = "projection.safetensors"  # of a learned projection; written before the manifest

_MOST_ROWS, _MOST_BYTES = 1024, 64 * 2**20  # of a shard, unless the plan says otherwise
_COMPARED = ("recipe", "models", "width", "dtype")
_SHOWN = 5  # differences named in a message
_AGAIN = "use another folder, or delete this one and build the store again."


@dataclass(frozen=True, eq=False)
class Plan:
    """What a store is of; compared when one is opened again.

    Args:
        recipe: How rows are computed: projection, loss, layers. JSON-ready, compared as a whole.
        models: Fingerprint of the weights of each checkpoint.
        n_rows: Number of training examples.
        width: Numbers in a row.
        content: From rows to a fingerprint of the training examples at these rows.
        dtype: Type of the stored numbers.
        shard_rows: Rows in a shard, which is what is lost when a build is killed. Default: the
            largest power of two up to 1024 whose shard is at most 64 MiB. The value of an
            existing store stands.
    """

    recipe: Mapping[str, Any]
    models: tuple[str, ...]
    n_rows: int
    width: int
    content: Callable[[slice], str]
    dtype: RowType = "float32"
    shard_rows: int | None = None

    def header(self) -> dict[str, Any]:
        """The plan in JSON-ready form."""
        if self.dtype not in files.ITEM_SIZE:
            raise InputError(f"dtype must be one of {[*files.ITEM_SIZE]}, got {self.dtype!r}.")
        for name in ("n_rows", "width", "shard_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}.")
        if not self.models:
            raise InputError("models must hold the fingerprint of at least one checkpoint.")
        try:
            recipe = json.loads(json.dumps(self.recipe, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"recipe must be JSON-ready: {error}.") from error
        return {
            "format": FORMAT, "recipe": recipe, "models": list(self.models), "n_rows": self.n_rows,
            "width": self.width, "dtype": self.dtype,
            "shard_rows": self.shard_rows or self._default_shard_rows(),
        }  # fmt: skip

    def _default_shard_rows(self) -> int:
        fitting = _MOST_BYTES // (self.width * files.ITEM_SIZE[self.dtype])
        return 1 << (max(1, min(_MOST_ROWS, fitting)).bit_length() - 1)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a store; None for a folder that is not there, or empty."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise StorageError(f"Expected a folder for a store, but {folder} is a file.")
    others = [name for name in os.listdir(folder) if name != PROJECTION and not files.is_part(name)]
    manifest = folder / MANIFEST  # looked for after the list: it is written first
    if not manifest.exists():
        if others:
            raise StorageError(
                f"Expected a store or an empty folder, but {folder} holds {sorted(others)[0]} and "
                f"no {MANIFEST}: use another folder."
            )
        return None
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        version, checksum = found["format"], found.pop("checksum")
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{manifest} is damaged ({error!r}): {_AGAIN}") from error
    if version != FORMAT:
        raise StorageError(
            f"{folder} holds a store of format {version}, this version reads {FORMAT}: {_AGAIN}"
        )
    if checksum != _checksum(found):
        raise StorageError(f"{manifest} is damaged (its checksum is wrong): {_AGAIN}")
    return found


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    whole = {**content, "checksum": _checksum(content)}
    files.write_file(folder / MANIFEST, json.dumps(whole, indent=1).encode())


def _checksum(content: Mapping[str, Any]) -> str:
    return fingerprint(json.dumps(content, sort_keys=True))


def plan_fingerprint(header: Mapping[str, Any]) -> str:
    return _checksum({name: header[name] for name in (*_COMPARED, "format")})


def check_same_plan(folder: Path, header: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    wrong = [line for name in _COMPARED for line in _differences(header[name], found[name], name)]
    if wrong:
        more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise StorageError(
            f"{folder} holds a store of another plan:\n  " + "\n  ".join(wrong[:_SHOWN]) + more
            + f"\nRestore what differs, {_AGAIN}"
        )  # fmt: skip
    if found["n_rows"] > header["n_rows"]:
        raise StorageError(
            f"{folder} holds {found['n_rows']} rows, but {header['n_rows']} are asked for: rows "
            f"can be appended, not removed: {_AGAIN}"
        )


def _differences(expected: Any, found: Any, path: str) -> list[str]:
    """Where two JSON values differ, by the path of keys."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted(expected.keys() | found.keys())
        inner = [(f"{path}.{k}", expected.get(k, _Absent), found.get(k, _Absent)) for k in keys]
    elif isinstance(expected, list) and isinstance(found, list):
        n = max(len(expected), len(found))
        both = [[*some, *[_Absent] * (n - len(some))] for some in (expected, found)]
        inner = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(*both, strict=True))]
    else:
        shown = [_shown(expected), _shown(found)]
        return [] if shown[0] == shown[1] else [f"{path}: expected {shown[0]}, found {shown[1]}"]
    return [line for place, a, b in inner for line in _differences(a, b, place)]


class _Absent:
    """Stands where one of two compared values has nothing."""


def _shown(value: Any) -> str:
    return "nothing" if value is _Absent else json.dumps(value)
