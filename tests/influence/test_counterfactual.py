"""Counterfactual sets against all subsets of small problems."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from influence import Without
from influence.counterfactual import counterfactual
from influence.errors import InputError, TooFewRowsError
from influence.result import strongest
from influence.top import TopInfluence
from tests.influence.test_removal import PROVENANCE


class Vote:
    """A prediction that flips once the support removed exceeds a margin: additive, so exact."""

    def __init__(self, support, margins):
        self.support, self.margins = np.asarray(support), np.asarray(margins)
        self.calls = 0

    def __call__(self, change):
        self.calls += 1
        return self.support[change.rows].sum(axis=0) > self.margins


def fewest(flips, n_train, query):
    """Size of the smallest set that flips, by trying all; None if none does."""
    for size in range(1, n_train + 1):
        for rows in combinations(range(n_train), size):
            if flips(Without(list(rows)))[query]:
                return size
    return None


def test_additive_predictions_get_the_smallest_set_of_all():
    rng = np.random.default_rng(0)
    support = rng.normal(size=(9, 6))
    total = np.maximum(support, 0).sum(axis=0)
    flips = Vote(support, total * np.linspace(0.05, 1.05, 6))
    for query in range(6):
        found = counterfactual(support, flips, query)
        size = fewest(flips, 9, query)
        assert found.flipped == (size is not None)
        if found.flipped:
            assert len(found.rows) == size
            assert flips(Without(found.rows))[query]
    assert not found.flipped, "the last margin cannot be reached"
    assert set(found.rows) == set(np.flatnonzero(support[:, 5] > 0))


def nearest_neighbour_flips(seed):
    """Whether the nearest neighbour left says another class than all neighbours do now."""
    rng = np.random.default_rng(seed)
    X, y, query = rng.normal(size=10), rng.integers(0, 2, 10), 0.0
    distance = np.abs(X - query)

    def vote(rows):
        left = np.delete(np.arange(10), rows)
        nearest = left[np.argsort(distance[left])[:3]]
        return y[nearest].sum() * 2 > len(nearest)

    now = vote(np.array([], dtype=int))
    influence = np.where(y == now, 1.0, -1.0) / (1 + distance)
    return influence, lambda change: np.array([vote(change.rows) != now])


def test_sets_flip_really_and_no_row_is_superfluous():
    """On 3-nearest-neighbours, where effects do not add, against all subsets."""
    excess = []
    for seed in range(20):
        influence, flips = nearest_neighbour_flips(seed)
        size = fewest(flips, 10, 0)
        found = counterfactual(influence, flips)
        if size is None:
            assert not found.flipped
            continue
        if found.flipped:
            assert flips(Without(found.rows))[0]
            excess.append(len(found.rows) - size)
    assert len(excess) >= 15
    assert min(excess) >= 0 and np.mean(excess) < 0.5


def test_rows_that_are_not_needed_are_put_back():
    found = counterfactual(np.array([5.0, 4, 3, 2, 1]), lambda c: np.array([{1, 3} <= {*c.rows}]))
    assert found.rows.tolist() == [1, 3]


def test_the_budget_bounds_the_retrainings():
    support = np.ones((1000, 1))
    for budget in (1, 5, 11, 19, 25):
        flips = Vote(support, [699.5])
        found = counterfactual(support, flips, budget=budget)
        assert flips.calls == found.n_retrainings == len(found.tried) <= budget
        assert found.flipped == (budget >= 11)
        assert not found.flipped or flips(Without(found.rows))[0]
    assert len(counterfactual(support, Vote(support, [699.5]), budget=20).rows) == 700
    capped = counterfactual(support, Vote(support, [699.5]), max_rows=100)
    assert not capped.flipped and len(capped.rows) == 100


def test_rankings_of_any_form():
    support = np.array([[1.0, 0.1], [3.0, 0.2], [-2.0, 0.3], [0.0, 4.0]])
    index = pd.RangeIndex(4)
    high, low = strongest(support, 2, 1.0), strongest(support, 2, -1.0)
    top = TopInfluence(*high, *low, index, pd.RangeIndex(2), PROVENANCE)
    flips = Vote(support, [3.5, 3.5])
    for influence in (support, top):
        assert counterfactual(influence, flips, 0).rows.tolist() == [1, 0]
        assert counterfactual(influence, flips, 1).rows.tolist() == [3]
    assert counterfactual(support[:, 1], flips, 1).rows.tolist() == [3]


@pytest.mark.parametrize(("margin", "flipped", "n_rows"), [(4.5, True, 5), (9.0, False, 5)])
def test_sets_that_nothing_can_be_trained_without_end_the_search_among_smaller(
    margin, flipped, n_rows
):
    vote = Vote(np.ones((12, 1)), [margin])

    def flips(change):
        if len(change.rows) > 5:
            raise TooFewRowsError("a class is gone")
        return vote(change)

    found = counterfactual(np.arange(12.0, 0, -1), flips)
    assert (found.flipped, len(found.rows)) == (flipped, n_rows)
    assert all(size <= 5 for size, flipped in found.tried if flipped)


def test_reading_a_counterfactual():
    found = counterfactual(np.ones(8), Vote(np.ones((8, 1)), [2.5]))
    assert repr(found) == (
        f"<Counterfactual: query 0 flips without 3 rows; {found.n_retrainings} retrainings>"
    )
    assert found.to_frame()["train"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"query": 2}, "0 to 1"),
        ({"budget": 0}, "budget"),
        ({"max_rows": 0}, "max_rows"),
        ({"influence": -np.ones((4, 2))}, "positive influence"),
        ({"flips": lambda change: True}, "boolean for each query"),
        ({"flips": lambda change: np.array([0.5, 0.5])}, "dtype float64"),
        ({"flips": lambda change: np.array([True]), "query": 1}, "query 1"),
    ],
)
def test_bad_questions(arguments, says):
    asked = {"influence": np.ones((4, 2)), "flips": Vote(np.ones((4, 2)), [1, 1]), **arguments}
    with pytest.raises(InputError, match=says):
        counterfactual(**asked)
