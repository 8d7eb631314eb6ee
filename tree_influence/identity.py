"""What tells one retraining from another: rows and settings as text and hashes.

Two sets of rows, or two recipes, that could train another model have another identity. What only
decides how fast or how loud training is has no part in it.
"""

from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.util import hash_pandas_object
from scipy.sparse import issparse

from influence.errors import InputError
from influence.run import fingerprint
from tree_influence.adapters.base import GivenRows
from tree_influence.rows import in_blocks, plain, take

WITHOUT_EFFECT = {
    "n_jobs", "num_threads", "nthread", "thread_count", "verbose", "verbosity", "silent",
}  # fmt: skip


def of_rows(rows: GivenRows) -> str:
    """Hash of features, target, weights and offset, whatever kind of table holds them.

    Raises:
        InputError: The features cannot be read back, or hold values that have no hash.
    """
    features = fingerprint(*_parts(rows.X))
    others = [
        "none" if part is None else fingerprint(*_parts(part))
        for part in (rows.y, rows.sample_weight, rows.offset)
    ]
    return fingerprint(features, *others)


def of_settings(settings: Mapping[str, Any], where: str = "") -> str:
    """Parameters as one text that is the same in every process.

    Args:
        settings: Parameters by name; values may be estimators, whose own parameters are read.
        where: For messages: whose parameters they are.

    Raises:
        InputError: A value that cannot be told from others by a text, such as a function without
            a name or a random state.
    """
    return ", ".join(
        f"{name}={_text(settings[name], where + str(name))}"
        for name in sorted(settings, key=str)
        if name not in WITHOUT_EFFECT
    )


def _text(value: Any, where: str) -> str:
    if value is None or isinstance(value, bool | int | float | str | slice | type):
        return repr(value)
    if isinstance(value, np.generic):
        return _text(value.item(), where)
    if isinstance(value, np.ndarray | pd.Series | pd.DataFrame):
        return fingerprint(*_parts(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(entry, where) for entry in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_text(entry, where) for entry in value))}}}"
    if isinstance(value, Mapping):
        return f"{{{of_settings(value, where + '.')}}}"
    if isinstance(value, np.ufunc):
        return repr(value)
    kind = type(value)
    if isinstance(value, FunctionType | BuiltinFunctionType) and "<" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    get_params: Any = getattr(value, "get_params", None)
    if get_params is not None:
        inner = of_settings(get_params(deep=False), f"{where}.")
        return f"{kind.__module__}.{kind.__qualname__}({inner})"
    raise InputError(
        f"Expected settings that can be told apart by a text, but {where} is a {kind.__name__}: "
        "retrainings with it cannot be kept in a cache. Use a number for a seed and a function "
        "with a name, or retrain without a cache."
    )


def _parts(X: Any) -> list[NDArray[np.generic] | str]:
    """What `fingerprint` takes, of an array or table."""
    if issparse(X):
        return ["sparse", str(X.shape), X.data, X.indices, X.indptr]
    if isinstance(X, np.ndarray) and X.dtype.kind != "O":
        return [X]
    if isinstance(X, np.ndarray | pd.Series):
        X = pd.DataFrame(X)
    if type(X).__module__.split(".")[0] == "catboost":
        raise InputError(
            "Expected features that can be read back, got a Pool with categories, texts or "
            "embeddings, which only CatBoost can read: its retrainings cannot be kept in a cache. "
            "Trace the model with the table itself."
        )
    parts: list[NDArray[np.generic] | str] = []
    for block in in_blocks(X):
        table = plain(take(X, block))
        for j, name in enumerate(table.columns):
            parts += [f"{name!r} {table.dtypes.iloc[j]}", _hashes(table.iloc[:, j])]
    return parts


def _hashes(column: pd.Series) -> NDArray[np.uint64]:
    hashed: Any = hash_pandas_object  # pandas does not type it
    try:
        return hashed(column, index=False).to_numpy(dtype=np.uint64)
    except TypeError as error:
        raise InputError(
            f"Expected a column of numbers, texts or categories, but {column.name!r} has values "
            f"without a hash ({error}), so its retrainings cannot be kept in a cache."
        ) from error
