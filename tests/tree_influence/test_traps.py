"""Traps in tables, targets and weights: none may give numbers without an error that names it.

Every trap is set for every library that can fall into it; `test_trap_models.py` has those of
models, files and missing values.
"""

import numpy as np
import pandas as pd
import pytest

from influence.errors import (
    InfluenceError,
    InputError,
    TrainingDataError,
)
from tests.tree_influence import models
from tests.tree_influence.trapped import NAMES, Case


@pytest.fixture(scope="module", params=models.LIBRARIES)
def library(request):
    return request.param


@pytest.fixture(scope="module")
def binary(library):
    return Case(library, "logistic")


@pytest.fixture(scope="module")
def regression(library):
    return Case(library, "squared")


@pytest.fixture(scope="module")
def multiclass(library):
    return Case(library, "softmax")


def test_without_a_trap_the_answer_is_exact(binary, regression, multiclass):
    for case in (binary, regression, multiclass):
        assert case.trace().provenance["leaf_error_largest"] < 1e-4


# Rows, labels and weights that belong to another model, or to other rows.

SHUFFLED = np.random.default_rng(0).permutation(120)


def flipped(case):
    y = case.y.copy()
    y[7] = 1 - y[7] if case.task == "logistic" else (y[7] + 1) % 3
    return y


NOT_THE_TRAINING_DATA = {
    "rows in another order": lambda c: {"X": c.X.iloc[SHUFFLED].reset_index(drop=True)},
    "labels in another order": lambda c: {"y": c.y[SHUFFLED]},
    "weights in another order": lambda c: {"weight": c.weight[SHUFFLED]},
    "weights forgotten": lambda c: {"weight": None},
    "weights that are all one": lambda c: {"weight": np.ones(120)},
    "rows missing": lambda c: {"X": c.X[:100], "y": c.y[:100], "weight": c.weight[:100]},
    "rows twice": lambda c: {
        "X": pd.concat([c.X, c.X[:40]]), "y": np.append(c.y, c.y[:40]),
        "weight": np.append(c.weight, c.weight[:40]),
    },
    "another data set of the same columns": lambda c: {
        "X": pd.DataFrame(np.random.default_rng(9).normal(size=(120, 4)), columns=NAMES)
    },
    "columns scaled": lambda c: {"X": (c.X - 1) / 3},
    "columns swapped, their names left": lambda c: {
        "X": c.X[["b", "a", "c", "d"]].set_axis(NAMES, axis=1)
    },
    "test rows in place of training rows": lambda c: {
        "X": c.X_test, "y": c.y_test, "weight": c.weight[:6]
    },
}  # fmt: skip


@pytest.mark.parametrize("trap", NOT_THE_TRAINING_DATA)
def test_what_the_model_was_not_trained_on(binary, regression, trap):
    for case in (binary, regression):
        with pytest.raises((TrainingDataError, InputError), match=r"leaf scale|class") as caught:
            case.trace(**NOT_THE_TRAINING_DATA[trap](case))
        assert isinstance(caught.value, InfluenceError)


def test_one_wrong_label(binary, multiclass):
    for case in (binary, multiclass):
        with pytest.raises(TrainingDataError, match="values, labels, order"):
            case.trace(y=flipped(case))


def test_a_target_on_another_scale(regression):
    with pytest.raises(TrainingDataError, match="leaf scale"):
        regression.trace(y=2.54 * regression.y)
    with pytest.raises(TrainingDataError, match="leaf scale"):
        regression.trace(y=np.log1p(np.abs(regression.y)))


def test_a_model_trained_on_another_target(library, regression):
    other = models.make(library, "squared", n_trees=4)
    other.fit(regression.X, regression.y**2, sample_weight=regression.weight)
    with pytest.raises(TrainingDataError, match="leaf scale"):
        regression.trace(model=other)


# Columns.


def with_column(case, name, values):
    return case.X.assign(**{name: values})


COLUMNS = {
    "in another order": lambda c: c.X[["b", "a", "c", "d"]],
    "renamed": lambda c: c.X.rename(columns={"c": "e"}),
    "one missing": lambda c: c.X[["a", "b", "c"]],
    "one too many": lambda c: with_column(c, "e", 0.0),
    "one twice": lambda c: pd.concat([c.X[["a"]], c.X[["a", "b", "c"]]], axis=1),
    "one of words": lambda c: with_column(c, "b", ["word"] * 120),
    "one of categories": lambda c: with_column(c, "b", pd.Categorical(["u", "v"] * 60)),
    "one of dates": lambda c: with_column(c, "b", pd.Timestamp("2024-01-01")),
    "one of complex numbers": lambda c: with_column(c, "b", 1j),
    "one of lists": lambda c: with_column(c, "b", pd.Series([[1, 2]] * 120)),
}


@pytest.mark.parametrize("trap", COLUMNS)
def test_columns_that_are_not_the_models(binary, trap):
    wrong = COLUMNS[trap](binary)
    with pytest.raises(InputError, match=r"column|features"):
        binary.trace(X=wrong)
    run = binary.trace()
    with pytest.raises(InputError, match=r"column|features"):
        run.queries(wrong[:6], binary.y_test)


@pytest.mark.parametrize("n_columns", [3, 5])
def test_arrays_of_another_width(binary, n_columns):
    with pytest.raises(InputError, match="4 columns"):
        binary.trace(X=np.zeros((120, n_columns)))


def test_rows_and_labels_of_other_lengths(binary):
    with pytest.raises(InputError, match="120 training rows"):
        binary.trace(y=binary.y[:119])
    with pytest.raises(InputError, match="sample weight for each"):
        binary.trace(weight=binary.weight[:119])
    with pytest.raises(InputError, match="at least one"):
        binary.trace(X=binary.X[:0], y=binary.y[:0], weight=binary.weight[:0])


def test_one_row_instead_of_a_table(binary):
    run = binary.trace()
    with pytest.raises(InputError, match="two dimensions"):
        run.queries(binary.X_test.iloc[0], binary.y_test[:1])
    with pytest.raises(InputError, match="at least one"):
        run.queries(binary.X_test[:0], binary.y_test[:0])


def test_indices_of_x_and_y_in_another_order(binary):
    y = pd.Series(binary.y)[::-1]
    with pytest.raises(InputError, match="another order"):
        binary.trace(y=y)


# Targets and weights.

TARGETS = {
    "infinite": (np.inf, "row 3 is inf"),
    "missing": (np.nan, "row 3 is nan"),
    "words": ("high", "dtype"),
}


@pytest.mark.parametrize("trap", TARGETS)
def test_targets_that_are_no_numbers(regression, trap):
    value, says = TARGETS[trap]
    y = regression.y.astype(object)
    y[3] = value
    with pytest.raises(InputError, match=says):
        regression.trace(y=y)


def test_labels_the_model_does_not_know(binary, multiclass):
    for case, label in ((binary, 2), (multiclass, 7)):
        y = case.y.copy()
        y[3] = label
        with pytest.raises(InputError, match=f"row 3 is {label}"):
            case.trace(y=y)
        with pytest.raises(InputError, match=f"row 3 is {label}"):
            case.trace().queries(case.X_test[:4], y[:4])


def test_missing_labels(binary):
    y = binary.y.astype(float)
    y[5] = np.nan
    with pytest.raises(InputError, match="row 5 is nan"):
        binary.trace(y=y)


def test_labels_counted_from_one(multiclass):
    if multiclass.library == "xgboost":  # which only numbers its classes: any labels will do
        counted = multiclass.trace(y=multiclass.y + 1)
        np.testing.assert_array_equal(counted.classes, [1, 2, 3])
        np.testing.assert_array_equal(counted.target, multiclass.trace().target)
        return
    with pytest.raises(InputError, match="class"):
        multiclass.trace(y=multiclass.y + 1)


def test_one_class_only(binary):
    with pytest.raises((InputError, TrainingDataError), match=r"class|leaf scale"):
        binary.trace(y=np.zeros(120, dtype=int))


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_weights_that_are_none(binary, value):
    weight = binary.weight.copy()
    weight[4] = value
    with pytest.raises(InputError, match=f"row 4 has {value}"):
        binary.trace(weight=weight)


def test_weights_that_are_all_zero(binary):
    with pytest.raises(InputError, match="zero"):
        binary.trace(weight=np.zeros(120))


def test_a_mask_in_place_of_the_target(regression):
    with pytest.raises(TrainingDataError, match="leaf scale"):
        regression.trace(y=regression.y > 0)
