"""Agreement measures against scipy and against constructions with a known answer."""

import numpy as np
import pytest
from scipy import stats

from influence import agreement, label_noise_curve, leave_one_out, retrain_all
from influence.errors import InputError
from influence.evaluate import compare, noise_floor


def effects(seed, n_changes=30, n_queries=4):
    return np.random.default_rng(seed).normal(size=(n_changes, n_queries))


def test_measures_are_scipys():
    predicted, retrained = effects(0), effects(0) + effects(1)
    found = compare(predicted, retrained)
    for j in range(4):
        a, b = predicted[:, j], retrained[:, j]
        assert found.spearman[j] == pytest.approx(stats.spearmanr(a, b)[0])
        assert found.pearson[j] == pytest.approx(stats.pearsonr(a, b)[0])
        assert found.slope[j] == pytest.approx(np.polyfit(a, b, 1)[0])
    assert found.mean == pytest.approx(found.spearman.mean())
    low, high = found.interval
    assert low < found.mean < high


def test_a_query_that_nothing_moves_is_left_out():
    predicted, retrained = effects(0), effects(0)
    retrained[:, 1] = 0.1
    found = compare(predicted, retrained)
    assert np.isnan(found.spearman[1])
    assert found.mean == pytest.approx(1.0)
    assert "mean Spearman 1.000" in repr(found)


@pytest.mark.parametrize("ties", [False, True])
def test_the_interval_is_that_of_drawing_changes_and_queries(ties):
    rng = np.random.default_rng(0)
    retrained = rng.normal(size=(30, 7))
    predicted = retrained + rng.normal(size=(30, 7))
    if ties:
        predicted, retrained = predicted.round(), retrained.round()
    means, drawn = [], np.random.default_rng(3)
    for _ in range(500):
        rows, columns = drawn.integers(0, 30, 30), drawn.integers(0, 7, 7)
        pairs = [(predicted[rows, q], retrained[rows, q]) for q in columns]
        means.append(np.mean([stats.spearmanr(*pair)[0] for pair in pairs]))
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(compare(predicted, retrained, seed=3).interval, expected)


def test_the_interval_shrinks_with_changes():
    width = []
    for n in (20, 400):
        truth = effects(2, n)
        found = compare(truth + effects(3, n), truth)
        width.append(found.interval[1] - found.interval[0])
    assert width[1] < width[0] / 2


def test_agreement_calls_both_sides_with_the_changes():
    changes = leave_one_out(6)
    weights = np.random.default_rng(0).normal(size=(6, 3))

    def effect(change):
        return change.removed(6) @ weights

    found = agreement(effect, lambda change: 2 * effect(change), changes, progress=False)
    np.testing.assert_allclose(found.slope, 2.0)
    np.testing.assert_array_equal(retrain_all(effect, changes, progress=False), weights)
    with pytest.raises(InputError, match="at least 3"):
        agreement(effect, effect, changes[:2])


def test_errors_of_scale():
    truth = effects(0)
    found = compare(0.75 * truth, truth)
    np.testing.assert_allclose(found.relative_error, 0.25)
    np.testing.assert_allclose(compare(0 * truth, truth).relative_error, 1.0)
    expected = np.abs(0.25 * truth).mean(axis=0) / truth.std(axis=0)
    np.testing.assert_allclose(found.mae_over_sd, expected)


def test_the_noise_floor_bounds_what_can_be_reached():
    """Truth plus noise of equal size: two retrainings correlate at 1/2, the truth at sqrt(1/2)."""
    n = 300
    truth = effects(5, n)
    changes = leave_one_out(n)

    def retraining(seed):
        noise = effects(seed, n)
        return lambda change: (truth + noise)[change.rows[0]]

    first, second = retraining(6), retraining(7)
    floor = noise_floor(first, second, changes, progress=False)
    best = agreement(lambda change: truth[change.rows[0]], first, changes, progress=False)
    np.testing.assert_allclose(floor.pearson, 0.5, atol=0.12)
    np.testing.assert_allclose(best.pearson, np.sqrt(0.5), atol=0.12)
    np.testing.assert_allclose(best.pearson.mean(), np.sqrt(floor.pearson.mean()), atol=0.04)


def test_effects_that_do_not_fit_are_refused():
    changes, other = leave_one_out(4), np.ones((4, 3))
    for predict, says in (
        (lambda change: other[0, :2], "return 2 effects"),
        (lambda change: 1.0, "one effect for each query"),
    ):
        with pytest.raises(InputError, match=says):
            agreement(predict, lambda change: other[0], changes, progress=False)
    gap = effects(0)
    gap[3, 1] = np.nan
    with pytest.raises(InputError, match="nan for change 3 and query 1"):
        compare(effects(1), gap)
    gap[4:] = np.nan
    gap[3] = np.nan
    with pytest.raises(InputError, match="inf for change 0 and query 0"):
        compare(np.full((30, 4), np.inf), gap)
    gap[2] = np.nan
    with pytest.raises(InputError, match="at least 3"):
        compare(effects(1), gap)


def test_label_noise_curve_counts():
    curve = label_noise_curve([5, 1, 4, 3], mislabelled=[0, 1], fractions=[0.25, 0.5, 1.0])
    assert curve["found"].tolist() == [1, 1, 2]
    assert curve["recall"].tolist() == [0.5, 0.5, 1.0]
    assert curve["precision"].tolist() == [1.0, 0.5, 0.5]
    for mislabelled, fractions, says in (
        ([], [0.5], "names no row"),
        ([True, False, False, True], [0.5], "boolean mask"),
        ([9], [0.5], "4 training rows"),
        ([0], [0], "above 0"),
        ([0], 0.1, "a list of shares"),
    ):
        with pytest.raises(InputError, match=says):
            label_noise_curve([5, 1, 4, 3], mislabelled, fractions)
