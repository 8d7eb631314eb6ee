"""Columns of tabular examples, from whatever holds them, as plain arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from influence.errors import InputError

Numbers = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Ragged:
    """One list of numbers for each example, end to end.

    Args:
        values: All numbers, shape (sum of lengths,).
        lengths: How many belong to each example, shape (n_examples,).
    """

    values: Numbers
    lengths: NDArray[np.int64]


def table(examples: Any) -> tuple[dict[str, Any], pd.Index | None] | None:
    """The columns of tabular examples and the labels of their rows, or None if not tabular.

    Tabular are a pandas DataFrame, a Hugging Face `datasets.Dataset` (its Arrow columns, as far as
    its format shows them), a dict of columns, and a sequence or Series of dicts with the same keys.
    """
    if isinstance(examples, pd.DataFrame):
        return {str(name): examples[name] for name in examples.columns}, examples.index
    if isinstance(examples, pd.Series):
        found = table(examples.tolist())
        return found and (found[0], examples.index)
    if is_hugging_face(examples):
        if examples.format["type"] == "custom":
            return _columns_of([examples[i] for i in range(len(examples))]), None
        arrow = examples.with_format("arrow", columns=examples.format["columns"])[:]
        return {name: arrow.column(name) for name in arrow.column_names}, None
    if isinstance(examples, Mapping):
        return {str(name): column for name, column in examples.items()}, None
    if isinstance(examples, Sequence) and examples and isinstance(examples[0], Mapping):
        return _columns_of(examples), None
    return None


def is_hugging_face(examples: Any) -> bool:
    """Whether these are a Hugging Face `datasets.Dataset`, without importing that library."""
    return all(hasattr(examples, name) for name in ("column_names", "features", "with_format"))


def _columns_of(records: Sequence[Any]) -> dict[str, list[Any]]:
    names = list(records[0])
    for i, record in enumerate(records):
        if not isinstance(record, Mapping) or record.keys() != records[0].keys():
            got = sorted(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
            raise InputError(
                f"Expected every example to be a dict of the keys of the first, {names}; example "
                f"{i} has {got}. Give all examples the same keys."
            )
    return {str(name): [record[name] for record in records] for name in names}


def as_list(column: Any) -> list[Any]:
    """The column's values as Python objects."""
    if isinstance(column, str):
        raise InputError(
            f"Expected a list with one entry for each example, got the string {column[:40]!r}; "
            "put it into a list."
        )
    return column.to_pylist() if _is_arrow(column) else list(column)


def numbers(name: str, column: Any) -> Ragged | Numbers | None:
    """A column's numbers: ragged, or one for each example; None where it holds no numbers.

    Raises:
        InputError: Values are missing, or nested deeper than one list for each example.
    """
    if isinstance(column, Ragged):
        return column
    if _is_arrow(column):
        return _of_arrow(name, column)
    if isinstance(column, torch.Tensor):
        column = column.detach().cpu().numpy()
    if isinstance(column, np.ndarray) and column.dtype != object:
        return _of_array(name, column)
    return _of_rows(name, list(column))


def _is_arrow(column: Any) -> bool:
    return type(column).__module__.startswith("pyarrow")


def _of_arrow(name: str, column: Any) -> Ragged | Numbers | None:
    import pyarrow as pa

    ragged = _is_list(column.type)
    inner = column.type.value_type if ragged else column.type
    if _is_list(inner) or isinstance(inner, pa.BaseExtensionType):
        raise _nested(name)
    if not _is_number(inner):
        return None
    whole = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    flat = whole.flatten() if ragged else whole
    if whole.null_count or flat.null_count:
        raise _missing(name)
    values = flat.to_numpy(zero_copy_only=False)
    if not ragged:
        return values
    if pa.types.is_fixed_size_list(column.type):
        lengths = np.full(len(whole), column.type.list_size)
    else:
        lengths = np.diff(whole.offsets.to_numpy())
    return Ragged(values, lengths.astype(np.int64))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    known = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in known)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    known = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return any(is_kind(kind) for is_kind in known)


def _of_array(name: str, array: Numbers) -> Ragged | Numbers | None:
    if array.dtype.kind not in "iufb":
        return None
    if array.ndim == 2:
        n, width = array.shape
        return Ragged(array.reshape(-1), np.full(n, width, dtype=np.int64))
    if array.ndim != 1:
        raise _nested(name)
    return array


def _of_rows(name: str, rows: list[Any]) -> Ragged | Numbers | None:
    rows = [row.detach().cpu().numpy() if isinstance(row, torch.Tensor) else row for row in rows]
    listed = [isinstance(row, list | tuple) or getattr(row, "ndim", 0) > 0 for row in rows]
    if not any(listed):
        return _of_array(name, _array(name, rows))
    if not all(listed):
        raise _missing(name)
    if any(isinstance(row, np.ndarray) for row in rows):
        values = np.concatenate([_array(name, row) for row in rows])
    else:
        values = _array(name, list(chain.from_iterable(rows)))
    if values.size == 0:
        values = np.empty(0, dtype=np.int64)
    if values.ndim > 1:
        raise _nested(name)
    flat = _of_array(name, values)
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return None if flat is None else Ragged(np.asarray(flat), lengths)


def _array(name: str, values: Any) -> Numbers:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise _nested(name) from error
    missing = array.dtype == object and any(value is None for value in array.flat)
    if missing and any(isinstance(value, int | float) for value in array.flat):
        raise _missing(name)
    return array


def _missing(name: str) -> InputError:
    return InputError(
        f"Expected a value of {name!r} for every example and token, but some are missing; drop "
        "those examples or fill them in."
    )


def _nested(name: str) -> InputError:
    return InputError(
        f"Expected {name!r} to be one number, or one list of numbers, for each example; got lists "
        "in lists. Remove this column."
    )
