"""What a page shows of an influence matrix, against the whole matrix sorted."""

import numpy as np
import pandas as pd
import pytest

from influence.errors import InputError
from influence.report import gather
from influence.report.gather import asked_of
from influence.result import Influence, Provenance


def gathered(values, shown, k=3, size=2):
    n_train, n_queries = values.shape
    blocks = [
        (slice(i, min(i + size, n_queries)), values[:, i : i + size])
        for i in range(0, n_queries, size)
    ]
    provenance = Provenance("Mine", {}, "loss", "hash")
    return gather(
        blocks, pd.RangeIndex(n_train), pd.RangeIndex(n_queries), provenance,
        shown=np.array(shown), k=k,
    )  # fmt: skip


def test_what_is_gathered_is_of_the_whole_matrix():
    values = np.random.default_rng(0).normal(size=(50, 5))
    found = gathered(values, [4, 1])
    np.testing.assert_allclose(found.total, values.sum(axis=1))
    whole = Influence(values, found.top.train_index, found.top.query_index, found.top.provenance)
    pd.testing.assert_frame_equal(found.top.proponents(), whole.proponents(3))
    pd.testing.assert_frame_equal(found.top.opponents(), whole.opponents(3))
    for at, query in enumerate([4, 1]):
        column = np.sort(values[:, query])
        for rank, helpful, harmful in zip(
            found.ranks, found.helpful_sums[at], found.harmful_sums[at], strict=True
        ):
            strongest, weakest = column[::-1][:rank], column[:rank]
            assert helpful == pytest.approx(strongest[strongest > 0].sum())
            assert harmful == pytest.approx(weakest[weakest < 0].sum())
    assert found.ranks[0] == 1 and found.ranks[-1] == 50


def test_a_side_has_only_its_sign():
    found = gathered(np.array([[1.0], [0.0], [-2.0]]), [0])
    assert found.side(0, 1.0) == [(0, 1.0)]
    assert found.side(0, -1.0) == [(2, -2.0)]
    assert found.rows.tolist() == [0, 2]


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        gathered(np.array([[np.nan], [1.0]]), [0])


def test_rounding_is_of_no_side():
    values = np.array([[0.5, 1e-18, 1e-9], [-0.1, 0.0, -3e-9], [1e-15, -2e-17, 1e-30]])
    found = gathered(values, [0, 1, 2])
    assert found.side(0, 1.0) == [(0, 0.5)]
    assert found.side(1, 1.0) == found.side(1, -1.0) == [], "all terms of query 1 cancel"
    assert found.side(2, 1.0) == [(0, 1e-9)], "small values are measured by their own query"
    assert found.rows.tolist() == [0, 1]
    whole = Influence(values, found.top.train_index, found.top.query_index, found.top.provenance)
    for ranked in (whole.proponents(3), found.top.proponents()):
        assert ranked["influence"].tolist() == [0.5, 1e-9]
    for shown in (whole._repr_html_(), found.top._repr_html_()):
        assert "e-18" not in shown and "e-17" not in shown and "1e-09" in shown


class Foreign:
    """Explains, but knows of no run."""

    def explain(self, *queries, progress=True):
        return None


def test_an_estimator_of_elsewhere_is_refused():
    for estimator in (Foreign(), Foreign, None):
        with pytest.raises(InputError, match="estimator of tree_influence with explain, got"):
            asked_of(estimator, [], object, "tree_influence")  # type: ignore[type-var]
