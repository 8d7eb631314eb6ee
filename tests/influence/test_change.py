"""The Changes and their generators."""

import numpy as np
import pandas as pd
import pytest

from influence import (
    Influence,
    Relabelled,
    Reordered,
    Reweighted,
    Without,
    leave_one_out,
    random_orders,
    random_subsets,
    remove_top,
)
from influence.change import removed_weight
from influence.errors import InputError, UnsupportedChangeError
from influence.result import Provenance


def test_without_removes_whole_rows():
    np.testing.assert_array_equal(Without([2, 0]).removed(4), [1, 0, 1, 0])
    np.testing.assert_array_equal(Without(frozenset({1})).removed(3), [0, 1, 0])
    assert not Without([]).removed(3).any()


def test_reweighted_removes_shares_of_rows():
    np.testing.assert_allclose(Reweighted([1, 0, 2, 0.5]).removed(4), [0, 1, -1, 0.5])


def test_relabelled_applies_labels_of_any_length():
    new = Relabelled([1], ["longer"]).apply(np.array(["a", "b"]))
    assert list(new) == ["a", "longer"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Without([True, False]), "boolean mask"),
        (lambda: Without([0, 0]), "more than once"),
        (lambda: Without([-1]), "count from 0"),
        (lambda: Without([0.5]), "integers"),
        (lambda: Without([5]).removed(5), "5 training rows"),
        (lambda: Reweighted([1, -1]), "non-negative"),
        (lambda: Reweighted([1, np.nan]), "finite"),
        (lambda: Reweighted([1, 1]).removed(3), "give one for each"),
        (lambda: Relabelled([0, 1], [1]), "one label for each"),
        (lambda: Reordered([]), "non-empty"),
        (lambda: random_subsets(10, 1.5, 3, 0), "between 0 and 1"),
        (lambda: leave_one_out(3, [3]), "3 training rows"),
        (lambda: Without([[0], [0, 1]]), "one length"),
        (lambda: Without({"a", 1}), "integers"),
        (lambda: Reweighted(["a"]), "numbers"),
        (lambda: Relabelled([0, 1], [[1], [1, 2]]), "one length"),
        (lambda: remove_top(np.ones((3, 2)), [0.5]), "every row"),
    ],
)
def test_bad_changes_are_named(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_changes_without_weights_say_what_can_answer():
    for change in (Relabelled([0], [1]), Reordered([0, 1])):
        with pytest.raises(UnsupportedChangeError, match="Without, Reweighted"):
            removed_weight(change, 3)


def test_generators():
    assert [change.rows.tolist() for change in leave_one_out(3)] == [[0], [1], [2]]
    subsets = random_subsets(20, keep=0.75, n=4, seed=1)
    assert [len(change.rows) for change in subsets] == [5] * 4
    again = random_subsets(20, keep=0.75, n=4, seed=1)
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(subsets, again, strict=True))
    order = random_orders(5, n=2, seed=0, n_epochs=3)[1].order
    assert sorted(order.tolist()) == sorted(list(range(5)) * 3)
    assert sorted(order[:5].tolist()) == list(range(5)), "epochs must be shuffled on their own"


def test_remove_top_takes_the_most_helpful_rows():
    values = np.array([[1.0, 0], [5, 1], [-3, 0], [0, 2]])
    rows = pd.RangeIndex(4)
    influence = Influence(values, rows, pd.RangeIndex(2), Provenance("m", {}, "loss", ""))
    none, half = remove_top(influence, [0, 0.5])
    assert none.rows.tolist() == []
    assert half.rows.tolist() == [1, 3]
