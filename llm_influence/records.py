"""Raw records from files: JSON lines, JSON, CSV and Parquet."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from influence.errors import InputError, StorageError
from influence.extras import check_installed
from llm_influence.encoding import KINDS as TEXT_KINDS

# The keys of each kind of record; the first kind whose keys are all there is taken.
KINDS = (("input_ids",), *TEXT_KINDS)
BESIDE = ("label", "labels", "attention_mask", "token_type_ids")  # taken with them
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".pq")


def read_records(path: str, id_key: str | None = None) -> pd.DataFrame:
    """The records of a file in its order, all of one kind; other keys are left aside.

    Args:
        path: The file; the kind is read off its name.
        id_key: Key whose values name the records; None: their positions.

    Raises:
        StorageError: The file is missing or cannot be read.
        InputError: No records, malformed ones (named by line), or records of several kinds.
    """
    suffix = Path(path).suffix
    if not Path(path).is_file():
        raise StorageError(f"Expected a file of records at {path}, but there is none.")
    if suffix not in SUFFIXES:
        raise InputError(f"Expected a file {', '.join(SUFFIXES)}, got {path}; name it so.")
    if suffix in (".jsonl", ".json"):
        places, records = _read_json(path)
    else:
        records = _read_table(path)
        places = [f"row {i}" for i in range(len(records))]
    if not records:
        raise InputError(f"Expected records in {path}, but it has none.")
    return _columns(path, places, records, id_key)


def _read_json(path: str) -> tuple[list[str], list[Any]]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: expected UTF-8, got the byte {error.object[error.start]:#04x} "
            f"({error.reason}); save the file as UTF-8."
        ) from error
    if path.endswith(".jsonl"):
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [f"line {n}" for n, _ in lines], [_parsed(path, line, n) for n, line in lines]
    found = _parsed(path, text, 1) if text.strip() else []
    if not isinstance(found, list):
        raise InputError(f"Expected a list of records in {path}, got a {type(found).__name__}.")
    return [f"record {i}" for i in range(len(found))], found


def _parsed(path: str, text: str, line: int) -> Any:
    try:
        found = json.loads(text)
        if "\\u" in text:  # half of a surrogate pair is JSON, but no text
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except (ValueError, RecursionError) as error:
        place = f"line {line + getattr(error, 'lineno', 1) - 1}"
        why = str(error)
        if isinstance(error, json.JSONDecodeError):
            why = f"{error.msg} at column {error.colno}"
        raise InputError(f"{path}, {place}: expected JSON, got {text[:40]!r} ({why}).") from error


def _read_table(path: str) -> list[dict[str, Any]]:
    if not path.endswith(".csv"):
        check_installed("pyarrow")
    try:
        if path.endswith(".csv"):
            texts = {key: str for kind in KINDS for key in kind}
            found = pd.read_csv(path, keep_default_na=False, dtype=texts)  # type: ignore[arg-type]
        else:
            found = pd.read_parquet(path)
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    if "messages" in found:
        found["messages"] = found["messages"].map(list)
    return [{str(name): value for name, value in row.items()} for row in found.to_dict("records")]


def _columns(
    path: str, places: Sequence[str], records: Sequence[Any], id_key: str | None
) -> pd.DataFrame:
    keys = _keys(records[0])
    if keys is None:
        got = sorted(records[0]) if isinstance(records[0], Mapping) else type(records[0]).__name__
        raise InputError(
            f"{path}, {places[0]}: expected an object with text, prompt and completion, question "
            f"and answer, messages, or input_ids; got {got}."
        )
    for place, record in zip(places, records, strict=True):
        if _keys(record) != keys:
            got = sorted(record) if isinstance(record, Mapping) else type(record).__name__
            raise InputError(
                f"{path}, {place}: expected the keys of the first record, {', '.join(keys)}; got "
                f"{got}. All records of a file must be of one kind."
            )
    index = None if id_key is None else _names(path, places, records, id_key)
    return pd.DataFrame({key: pd.Series([r[key] for r in records], index) for key in keys}, index)


def _keys(record: Any) -> tuple[str, ...] | None:
    """The keys that are taken of a record; None if it is of no known kind."""
    if not isinstance(record, Mapping):
        return None
    kind = next((kind for kind in KINDS if set(kind) <= record.keys()), None)
    return kind and (*kind, *(key for key in BESIDE if key in record))


def _names(
    path: str, places: Sequence[str], records: Sequence[Mapping[str, Any]], key: str
) -> pd.Index:
    found = list(_values(path, places, records, key))
    index = pd.Index(found)
    if index.has_duplicates:
        twice = found[int(index.duplicated().argmax())]
        raise InputError(f"--id {key} must name each record of {path} once; {twice!r} is twice.")
    return index


def _values(
    path: str, places: Sequence[str], records: Sequence[Mapping[str, Any]], key: str
) -> Iterator[str | int]:
    for place, record in zip(places, records, strict=True):
        value = record.get(key)
        if not isinstance(value, str | int):
            raise InputError(f"{path}, {place}: expected a text or number as {key}, got {value!r}.")
        yield value
