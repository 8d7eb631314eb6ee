"""Candidates of projected gradients against exact values."""

import numpy as np
import pytest
import scipy.stats

from influence.errors import InputError
from influence.top import TopInfluence
from llm_influence import rerank
from llm_influence.bm25 import BM25
from llm_influence.datainf import DataInf
from llm_influence.projection import Kronecker
from llm_influence.rerank import reranked
from llm_influence.tracin import TracIn
from tests.laws.networks import NetworkProblem


@pytest.fixture(scope="module")
def problem():
    return NetworkProblem()


@pytest.mark.parametrize("options", [{}, {"normalise": "unit"}, {"metric": "adam"}], ids=str)
def test_candidates_get_exact_values(problem, options, monkeypatch):
    run = problem.run()
    exact = TracIn(projection=None, **options).fit(run).explain(*problem.queries).values
    estimator = TracIn(Kronecker(2), **options).fit(run)
    top = estimator.explain_top(*problem.queries, k=4)
    monkeypatch.setattr(rerank, "_at_once", lambda step: 3)  # blocks of queries and candidates
    again = reranked(estimator, top, *problem.queries, k=3)
    tolerance = 1e-5 * np.abs(exact).max()
    for q in range(exact.shape[1]):
        candidates = np.union1d(top.highest_rows[q], top.lowest_rows[q])
        order = candidates[np.argsort(-exact[candidates, q], kind="stable")]
        values = exact[order, q]
        np.testing.assert_allclose(again.highest[q], values[:3], rtol=0, atol=tolerance)
        np.testing.assert_allclose(again.lowest[q], values[::-1][:3], rtol=0, atol=tolerance)
        named = exact[again.highest_rows[q], q]
        np.testing.assert_allclose(again.highest[q], named, rtol=0, atol=tolerance)
    assert again.highest_rows.shape == (5, 3)


def test_provenance_tells_what_was_done(problem, tmp_path):
    estimator = TracIn(Kronecker(2)).fit(problem.run())
    top = estimator.explain_top(*problem.queries, k=4)
    again = reranked(estimator, top, *problem.queries)
    exact = TracIn(projection=None).fit(problem.run()).explain(*problem.queries).values
    both = ((top.highest_rows, top.highest), (top.lowest_rows, top.lowest))
    agreement = [
        scipy.stats.spearmanr(values[q], exact[rows[q], q])[0]
        for q in range(5)
        for rows, values in both
    ]
    stated = again.provenance.run
    assert again.provenance.method == "TracIn reranked"
    assert stated["agreement_of_projected_with_exact"] == pytest.approx(np.mean(agreement))
    n_candidates = sum(len(np.union1d(*pair)) for pair in zip(both[0][0], both[1][0], strict=True))
    assert stated["candidates"] == n_candidates
    again.save(tmp_path / "top.npz")
    loaded = TopInfluence.load(tmp_path / "top.npz")
    assert loaded.provenance == again.provenance


def test_a_rank_without_projection_is_kept(problem):
    estimator = TracIn(projection=None).fit(problem.run())
    top = estimator.explain_top(*problem.queries, k=4)
    again = reranked(estimator, top, *problem.queries)
    np.testing.assert_allclose(again.highest, top.highest, rtol=1e-9)
    np.testing.assert_array_equal(again.highest[:, 0], again.highest.max(axis=1))


def test_what_cannot_be_reranked_is_refused(problem):
    run = problem.run()
    plain = TracIn(Kronecker(2)).fit(run)
    top = plain.explain_top(*problem.queries, k=3)
    others = (TracIn(Kronecker(2), whiten=1.0), DataInf(projection=Kronecker(2)), BM25())
    for estimator in others:
        own = estimator.fit(run).explain_top(*problem.queries, k=3)
        with pytest.raises(InputError, match=type(estimator).__name__):
            reranked(estimator, own, *problem.queries)
    with pytest.raises(InputError, match="this estimator and run"):
        reranked(TracIn(Kronecker(3)).fit(run), top, *problem.queries)
    with pytest.raises(InputError, match="5 queries of the result, got 2"):
        reranked(plain, top, *problem.part(slice(0, 2)))
    with pytest.raises(InputError, match="4 were asked for"):
        reranked(plain, top, *problem.queries, k=4)
