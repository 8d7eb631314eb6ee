"""One file format for every result: an npz of plain arrays and one JSON header, no pickle.

An index of labels is stored as arrays too, so that a saved result keeps the caller's pandas index.
"""

import json
import os
import threading
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.errors import StorageError
from influence.replacing import replacing

FORMAT = 1

_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError)

# Python up to 3.11.7 parses in one thread at a time: two at once end in a SystemError, rarely
# (python/cpython#106905), and numpy parses the header of every array.
_PARSING = threading.Lock()


def write(
    path: str | os.PathLike[str], kind: str, header: Mapping[str, Any], **arrays: Any
) -> None:
    """Writes arrays and pandas indexes with a JSON header, atomically.

    Args:
        path: File to write; an existing one is replaced only once the new one is complete.
        kind: What the file holds, checked by `read`.
        header: JSON-ready description.
        **arrays: Numeric arrays, or pandas indexes.

    Raises:
        StorageError: The file cannot be written, or what is there is no file or is read-only.
    """
    members: dict[str, NDArray[np.generic]] = {}
    indexes: dict[str, Any] = {}
    for name, value in arrays.items():
        if isinstance(value, pd.Index):
            indexes[name] = _pack_index(name, value, members)
        else:
            members[name] = np.asarray(value)
    meta = {"format": FORMAT, "kind": kind, "indexes": indexes, "header": dict(header)}
    try:
        members["meta"] = np.array(json.dumps(meta))
        with replacing(path) as part, part.open("xb") as file:
            np.savez(file, allow_pickle=False, **members)  # type: ignore[arg-type]
    except TypeError as error:
        raise StorageError(f"Could not write {path}: {error}") from error


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what `write` wrote: the header, and the arrays and indexes by name.

    Raises:
        StorageError: The file is missing, damaged, of another kind or of a newer format.
    """
    try:
        with _PARSING, np.load(path, allow_pickle=False) as file:
            members: dict[str, Any] = {name: file[name] for name in file.files}
        meta = json.loads(str(members.pop("meta")))
        found = meta["kind"], meta["format"]
        if found == (kind, FORMAT):
            for name, spec in meta["indexes"].items():
                members[name] = _unpack_index(name, spec, members)
            return meta["header"], members
    except (*_DAMAGE, zipfile.BadZipFile) as error:
        raise StorageError(
            f"Expected a saved {kind}, but {path} could not be read ({error}); "
            "it may be truncated or of another kind: save it again."
        ) from error
    raise StorageError(
        f"Expected a saved {kind} of format {FORMAT}, but {path} holds a {found[0]} of format "
        f"{found[1]}."
    )


def _pack_index(name: str, index: pd.Index, members: dict[str, NDArray[np.generic]]) -> Any:
    """Puts an index into `members`; returns what `_unpack_index` needs besides."""
    if not all(isinstance(label, str | int | float | None) for label in index.names):
        raise StorageError(
            f"Cannot save {name}: its own name must be text or a number, got {list(index.names)}; "
            "rename it."
        )
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


def _unpack_index(name: str, spec: Any, members: dict[str, Any]) -> pd.Index:
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
