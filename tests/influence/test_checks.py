"""Plain arguments of a wrong kind are named before any work."""

import numpy as np
import pytest

from influence import agreement, counterfactual, noise_detection, random_subsets, removal_curve
from influence.checks import check_share, check_whole
from influence.errors import InputError
from tests.influence.ridge import Ridge
from tree_influence import DataShapley, Random, SameClass, SubSample

VALUES = np.ones((4, 2))


@pytest.mark.parametrize("value", [None, "3", 2.0, True, -1, [3], np.float64(3)])
def test_counts_positions_and_seeds_are_whole_numbers(value):
    with pytest.raises(InputError, match="seed must be a whole number from 0 on, got"):
        check_whole("seed", value)
    for fine in (0, 5, 2**70, np.int64(3), np.uint8(1)):
        check_whole("seed", fine)


@pytest.mark.parametrize("value", [None, "0.5", 0, 1, 1.5, np.nan, True])
def test_shares_lie_between_0_and_1(value):
    with pytest.raises(InputError, match="keep must be a share"):
        check_share("keep", value)
    check_share("keep", np.float32(0.5))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: random_subsets(10, 0.5, 2.5, 0), "n must"),
        (lambda: random_subsets(10, 0.5, 2, None), "seed must"),
        (lambda: counterfactual(VALUES, lambda change: [True, True], "a"), "query must"),
        (lambda: counterfactual(VALUES, lambda change: [True, True], budget=None), "budget must"),
        (lambda: noise_detection([1, 2], [0]).precision_at(1.5), "k must"),
        (lambda: noise_detection(["a", "b"], [0]), "suspicion must be numbers"),
        (lambda: removal_curve(["a", "b"], lambda change: np.zeros(2)), "as numbers"),
        (lambda: SubSample("a"), "n_models must"),
        (lambda: SubSample(keep=None), "keep must"),
        (lambda: SubSample(seed=-1), "seed must"),
        (lambda: DataShapley(group=2.5), "group must"),
        (lambda: DataShapley(max_trainings="a"), "max_trainings must"),
        (lambda: DataShapley(tolerance=None), "tolerance must"),
        (lambda: DataShapley(seed="s"), "seed must"),
        (lambda: Random(None), "seed must"),
        (lambda: SameClass(1.5), "seed must"),
    ],
)
def test_wrong_kinds_are_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_changes_may_come_one_by_one():
    ridge = Ridge()
    found = agreement(ridge, ridge, iter(random_subsets(24, 0.5, 4, 0)), progress=False)
    assert found.predicted.shape == (4, 5)
