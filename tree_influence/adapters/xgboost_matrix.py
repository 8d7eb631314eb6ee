"""`xgboost.DMatrix`: what one holds, in the form the adapter takes rows.

It keeps its rows as CSR without the missing ones. Since 3.1 it also keeps the names of its
categories, whose codes are its own and not the model's.
"""

from typing import Any

import numpy as np
import pandas as pd
import xgboost
from scipy.sparse import csr_matrix

from influence.errors import InputError
from tree_influence.adapters.base import Floats, GivenRows
from tree_influence.adapters.columns import check_count, check_names
from tree_influence.adapters.xgboost_table import Table


def unpacked(
    rows: xgboost.DMatrix, booster: xgboost.Booster, table: Table, start: Floats, n_targets: int
) -> GivenRows:
    """Rows, labels, weights and starting scores of a DMatrix.

    Args:
        rows: The DMatrix; of a QuantileDMatrix the rows are what its bins stand for.
        booster: The model.
        table: Its columns.
        start: Raw score before the first tree, shape (n_outputs,).
        n_targets: Columns of the labels.

    Raises:
        InputError: Other columns than the model's, no labels, weights of groups, or rows that it
            does not give back.
    """
    kind, n_rows = type(rows).__name__, rows.num_row()
    _check_columns(rows, table, kind)
    y = rows.get_label()
    if y.size != n_rows * n_targets:
        raise InputError(
            f"Expected {n_targets} labels for each row of the {kind}, got {y.size} labels for "
            f"{n_rows} rows. Set them with set_label, or give arrays: the rows beside y."
        )
    weight = rows.get_weight()
    if weight.size not in (0, n_rows):
        raise InputError(
            f"Expected a weight for each row of the {kind}, got {weight.size} weights for {n_rows} "
            "rows: they weigh groups, which ranking does. Give a weight for every row."
        )
    margin = rows.get_base_margin()
    if margin.size not in (0, n_rows * len(start)):
        raise InputError(
            f"Expected base_margin of {len(start)} scores for each row of the {kind}, got "
            f"{margin.size} scores for {n_rows} rows. Set it with set_base_margin."
        )
    return GivenRows(
        _with_codes_of_the_model(_rows_of(rows, kind), rows, table, booster),
        y.reshape((n_rows, n_targets) if n_targets > 1 else n_rows).astype(np.float64),
        weight.astype(np.float64) if weight.size else None,
        margin.reshape(n_rows, -1).astype(np.float64) - start if margin.size else None,
    )


def _check_columns(rows: xgboost.DMatrix, table: Table, kind: str) -> None:
    check_count(rows.num_col(), len(table.is_categorical))
    if rows.feature_names is not None and table.names is not None:
        check_names(list(rows.feature_names), table.names)
    types = rows.feature_types or ["q"] * rows.num_col()
    given = np.array([one == "c" for one in types])
    if (given != table.is_categorical).any():
        column = int((given != table.is_categorical).argmax())
        own = "categories" if table.is_categorical[column] else "numbers"
        raise InputError(
            f"The model was trained with {own} in column {table.name(column)!r}, but the {kind} "
            f"has feature_types={list(types)}. Make it as the one for training was made."
        )


def _rows_of(rows: xgboost.DMatrix, kind: str) -> csr_matrix:
    try:
        return rows.get_data()
    except (xgboost.core.XGBoostError, NotImplementedError) as error:
        raise InputError(
            f"Expected a DMatrix that gives its rows back, but this {kind} does not: {error}. Give "
            "the rows themselves, with y and sample_weight."
        ) from error


def _with_codes_of_the_model(
    X: csr_matrix, rows: xgboost.DMatrix, table: Table, booster: xgboost.Booster
) -> csr_matrix:
    """The same rows with the model's code for each category of the DMatrix's own."""
    if not table.categories or rows.get_categories().empty():
        return X
    own, models = _names(rows), _names(booster)
    for column, categories in table.categories.items():
        names = own[column]
        if names is None or names == models[column]:
            continue
        if not all(str(name).isascii() for name in names):
            raise InputError(
                f"Column {table.name(column)!r} of the DMatrix has other categories than in "
                "training, and not all are ASCII, which XGBoost 3.1 to 3.3 lose. Give the table "
                "itself, with y and sample_weight."
            )
        place = X.indices == column
        codes = np.where(X.data[place] < 0, -1, X.data[place]).astype(np.int64)
        told = pd.Categorical.from_codes(codes, pd.Index(names))
        X.data[place] = categories.codes(pd.Series(told, name=table.name(column)))
    return X


def _names(holder: xgboost.DMatrix | xgboost.Booster) -> list[list[Any] | None]:
    """Names of the categories of every column; None where it has none."""
    try:
        told = holder.get_categories(export_to_arrow=True).to_arrow()
        return [None if names is None else names.to_pylist() for _, names in told]
    except UnicodeDecodeError:  # names that are not ASCII, cut inside a letter
        return [None if names is None else _decoded(names) for _, names in told]
    except ImportError as error:
        raise InputError(
            f"Expected pyarrow, by which a DMatrix tells its categories: {error}. Install it, or "
            "give the table itself, with y and sample_weight."
        ) from error


def _decoded(names: Any) -> list[Any]:
    """Names of which some may be no valid text."""
    import pyarrow as pa

    if not pa.types.is_string(names.type):
        return names.to_pylist()
    return [one.decode("utf-8", "replace") for one in names.cast(pa.binary()).to_pylist()]
