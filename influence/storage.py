"""One file format for every result: an npz of plain arrays and one JSON header, no pickle.

An index of labels is stored as arrays too, so that a saved result keeps the caller's pandas index.
"""

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.errors import StorageError

FORMAT = 1


def write(
    path: str | os.PathLike[str], kind: str, header: Mapping[str, Any], **arrays: Any
) -> None:
    """Writes arrays and pandas indexes with a JSON header, atomically.

    Args:
        path: File to write; an existing one is replaced only once the new one is complete.
        kind: What the file holds, checked by `read`.
        header: JSON-ready description.
        **arrays: Numeric arrays, or pandas indexes.
    """
    target = Path(path)
    members: dict[str, NDArray[np.generic]] = {}
    indexes: dict[str, Any] = {}
    for name, value in arrays.items():
        if isinstance(value, pd.Index):
            indexes[name] = _pack_index(name, value, members)
        else:
            members[name] = np.asarray(value)
    meta = {"format": FORMAT, "kind": kind, "indexes": indexes, "header": dict(header)}
    members["meta"] = np.array(json.dumps(meta))
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, allow_pickle=False, **members)  # type: ignore[arg-type]
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, target)
    except OSError as error:
        raise StorageError(f"Could not write {target}: {error}") from error


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what `write` wrote: the header, and the arrays and indexes by name.

    Raises:
        StorageError: The file is missing, damaged, of another kind or of a newer format.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            members = {name: file[name] for name in file.files}
        meta = json.loads(str(members.pop("meta")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StorageError(
            f"Expected a saved {kind}, but {path} could not be read ({error}); "
            "it may be truncated or of another kind: save it again."
        ) from error
    if meta.get("kind") != kind or meta.get("format") != FORMAT:
        raise StorageError(
            f"Expected a saved {kind} of format {FORMAT}, but {path} holds a {meta.get('kind')} "
            f"of format {meta.get('format')}."
        )
    indexes = {name: _unpack_index(name, spec, members) for name, spec in meta["indexes"].items()}
    return meta["header"], {**members, **indexes}


def _pack_index(name: str, index: pd.Index, members: dict[str, NDArray[np.generic]]) -> Any:
    """Puts an index into `members`; returns what `_unpack_index` needs besides."""
    if isinstance(index, pd.RangeIndex):
        return {"range": [index.start, index.stop, index.step], "names": list(index.names)}
    levels = [index.get_level_values(i) for i in range(index.nlevels)]
    for i, level in enumerate(levels):
        members[f"{name}.{i}"] = _pack_labels(name, level)
    kinds = ["json" if level.dtype.kind == "O" else "plain" for level in levels]
    return {"levels": kinds, "names": list(index.names)}


def _pack_labels(name: str, labels: pd.Index) -> NDArray[np.generic]:
    values = labels.to_numpy()
    if labels.dtype.kind != "O":
        if values.dtype.kind in "iufbM":
            return values
        raise StorageError(f"Cannot save {name} of dtype {labels.dtype}; call reset_index() first.")
    if not all(isinstance(v, str | int | float | bool | None) for v in values.tolist()):
        raise StorageError(
            f"Cannot save {name}: its labels must be strings or numbers; call reset_index() first."
        )
    return np.array(json.dumps(values.tolist()))


def _unpack_index(name: str, spec: Any, members: dict[str, NDArray[np.generic]]) -> pd.Index:
    """The index `_pack_index` stored, whose arrays are taken out of `members`."""
    if "range" in spec:
        return pd.RangeIndex(*spec["range"], name=spec["names"][0])
    levels = []
    for i, kind in enumerate(spec["levels"]):
        stored = members.pop(f"{name}.{i}")
        levels.append(pd.Index(json.loads(str(stored)) if kind == "json" else stored))
    if len(levels) == 1:
        return levels[0].rename(spec["names"][0])
    return pd.MultiIndex.from_arrays(levels, names=spec["names"])
