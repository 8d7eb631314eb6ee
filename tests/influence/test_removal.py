"""Removal and relabelling curves against loops over closed-form retrainings."""

import numpy as np
import pandas as pd
import pytest

from influence import Influence, Without
from influence.campaign import Campaign
from influence.errors import InputError, RetrainingError
from influence.removal import far_end, next_class, relabelling_curve, removal_curve
from influence.result import Provenance, strongest
from influence.top import TopInfluence
from tests.influence.ridge import Ridge

FRACTIONS = (0, 0.1, 0.25, 0.5)
PROVENANCE = Provenance("m", {}, "loss", "")


def top_rows(column, k):
    return sorted(range(len(column)), key=lambda i: (-column[i], i))[:k]


def test_single_query_removal_is_the_loop():
    ridge = Ridge()
    values = ridge.values()
    expected = [
        [ridge.without(top_rows(values[:, j], round(f * 24)))[j] for j in range(5)]
        for f in FRACTIONS
    ]
    dense = Influence(values, pd.RangeIndex(24), pd.RangeIndex(5), PROVENANCE)
    rows, strongest_values = strongest(values, 12, 1.0)
    top = TopInfluence(
        rows, strongest_values, rows, strongest_values, dense.train_index, dense.query_index,
        PROVENANCE,
    )  # fmt: skip
    for influence in (values, dense, top):
        curve = removal_curve(influence, ridge, FRACTIONS)
        np.testing.assert_array_equal(curve.effects, expected)
    np.testing.assert_allclose(curve.mean, np.mean(expected, axis=1))
    assert curve.n_rows.tolist() == [0, 2, 6, 12]
    np.testing.assert_array_equal(curve.effects[0], 0.0)
    assert (curve.low[1:] < curve.mean[1:]).all() and (curve.mean[1:] < curve.high[1:]).all()


def test_multi_query_removal_has_one_ranking():
    ridge = Ridge()
    total = Ridge(n_queries=3).values().sum(axis=1)
    curve = removal_curve(total, ridge, FRACTIONS)
    expected = [ridge.without(top_rows(total, round(f * 24))) for f in FRACTIONS]
    np.testing.assert_array_equal(curve.effects, expected)
    assert len(ridge.calls) == len(FRACTIONS)


def test_the_right_ranking_beats_a_random_one():
    ridge = Ridge(n_train=60, n_queries=30)
    random = np.random.default_rng(0).random((60, 30))
    ours = removal_curve(ridge.values(), ridge, (0.1,))
    baseline = removal_curve(random, ridge, (0.1,))
    assert ours.low[0] > baseline.high[0]


def test_the_interval_covers_the_mean_of_the_population():
    """Over many draws of the queries the 95 % interval holds the true mean about as often."""
    covered = 0
    rng = np.random.default_rng(0)
    for seed in range(100):
        sample = rng.normal(size=40) + 1.0
        curve = removal_curve(np.arange(5.0), lambda change, e=sample: e, (0.2,), seed=seed)
        covered += curve.low[0] <= 1.0 <= curve.high[0]
    assert 88 <= covered <= 99


def test_relabelling_is_the_loop():
    ridge = Ridge()
    values, new = ridge.values(), far_end(ridge.y)
    targeted = relabelling_curve(values, ridge, new, FRACTIONS)
    own = np.broadcast_to(np.linspace(-9, 9, 5), (24, 5))  # another label for every query
    to_query = relabelling_curve(values, ridge, own, FRACTIONS)
    poisoned = relabelling_curve(values.sum(axis=1), ridge, new, FRACTIONS)
    for f, fraction in enumerate(FRACTIONS):
        k = round(fraction * 24)
        for j in range(5):
            rows = np.array(top_rows(values[:, j], k), dtype=int)
            assert targeted.effects[f, j] == ridge.relabelled(rows, new[rows])[j]
            assert to_query.effects[f, j] == ridge.relabelled(rows, own[rows, j])[j]
        rows = np.array(top_rows(values.sum(axis=1), k), dtype=int)
        np.testing.assert_array_equal(poisoned.effects[f], ridge.relabelled(rows, new[rows]))


def test_new_labels():
    assert next_class(["b", "a", "c", "a"]).tolist() == ["c", "b", "a", "b"]
    assert next_class([0, 1, 1]).tolist() == [1, 0, 0]
    assert far_end([1.0, 2.0, 4.0, 9.0]).tolist() == [9.0, 9.0, 9.0, 1.0]
    assert far_end([[0, 5], [1, 9], [2, 6]]).tolist() == [[2, 9], [2, 5], [0, 9]], "each its own"
    for labels, says in (([1, 1], "two classes"), (["a", None, "b"], "missing")):
        with pytest.raises(InputError, match=says):
            next_class(labels)
    for target, says in ((["no", "yes"], "next_class"), ([], "finite"), ([1, np.nan], "finite")):
        with pytest.raises(InputError, match=says):
            far_end(target)


def test_failed_changes_are_left_out_of_the_mean():
    values = Ridge().values()
    row = top_rows(values[:, 0], 6)[-1]
    ridge = Ridge(fails_on=row)
    with pytest.raises(RetrainingError):
        removal_curve(values, ridge, (0.25,))
    curve = removal_curve(values, Campaign(ridge, on_error="nan", progress=False), (0.25,))
    failed = [row in top_rows(values[:, j], 6) for j in range(5)]
    assert 0 < sum(failed) < 5
    np.testing.assert_array_equal(np.isnan(curve.effects[0]), failed)
    assert curve.mean[0] == pytest.approx(np.nanmean(curve.effects[0]))


def test_reading_a_curve(tmp_path):
    curve = removal_curve(Ridge().values(), Ridge(), FRACTIONS)
    assert "over 5 queries" in repr(curve) and "12 rows (50.0%) removed" in repr(curve)
    curve.to_frame().to_csv(tmp_path / "curve.csv", index=False)
    back = pd.read_csv(tmp_path / "curve.csv")
    assert list(back) == ["fraction", "n_rows", "mean", "low", "high"]
    np.testing.assert_allclose(back["mean"], curve.mean)
    one = removal_curve(Ridge(n_queries=1).values(), Ridge(n_queries=1), (0.1,))
    assert np.isnan(one.low[0]), "one query has no spread"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda ridge: removal_curve(ridge.values(), ridge, (0.1, 1.5)), "between 0 and 1"),
        (lambda ridge: removal_curve(ridge.values(), ridge, (np.nan,)), "between 0 and 1"),
        (lambda ridge: removal_curve(ridge.values(), ridge, ()), "between 0 and 1"),
        (lambda ridge: removal_curve(ridge.values(), ridge, 0.1), "a list of shares"),
        (lambda ridge: removal_curve(ridge.values()[:20], ridge), "ranking of the 24 rows"),
        (lambda ridge: removal_curve(np.zeros((0, 3)), ridge), "n_train"),
        (lambda ridge: removal_curve(ridge.values() * np.nan, ridge, (0.1,)), "not finite"),
        (lambda ridge: relabelling_curve(ridge.values(), ridge, [1.0]), r"shape \(24,\)"),
        (lambda ridge: removal_curve(np.arange(3.0), lambda c: np.array([np.inf]), (0,)), "finite"),
    ],
)
def test_bad_curves_are_refused_before_training(call, says):
    ridge = Ridge()
    with pytest.raises(InputError, match=says):
        call(ridge)
    assert ridge.calls == []


def test_other_queries_than_ranked_are_refused_at_the_first_change():
    ridge = Ridge()
    with pytest.raises(InputError, match="one for each query"):
        removal_curve(ridge.values()[:, :4], ridge)
    assert len(ridge.calls) == 1


def test_a_short_ranking_says_how_many_rows_it_takes():
    rows, values = strongest(Ridge().values(), 3, 1.0)
    index = pd.RangeIndex(24)
    top = TopInfluence(rows, values, rows, values, index, pd.RangeIndex(5), PROVENANCE)
    with pytest.raises(InputError, match="explain_top with k=12"):
        removal_curve(top, Ridge(), (0.5,))
    np.testing.assert_array_equal(
        removal_curve(top, Ridge(), (0.125,)).effects[0, 0],
        Ridge()(Without(rows[0]))[0],
    )
