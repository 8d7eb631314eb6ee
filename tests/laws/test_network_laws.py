"""Every law over every estimator of networks."""

from typing import Any

import pytest

from llm_influence import (
    BM25,
    EKFAC,
    LESS,
    PCA,
    SOURCE,
    TRAK,
    DataInf,
    EmbeddingSimilarity,
    Kronecker,
    Mixture,
    Random,
    RepresentationSimilarity,
    TracIn,
    TrackStar,
)
from tests.laws.cases import obeyed
from tests.laws.networks import NetworkProblem
from tests.llm_influence.models import texts

# A way to make each estimator, and the laws it cannot obey.
ESTIMATORS: dict[str, tuple[Any, set[str]]] = {
    "TracIn": (TracIn, set()),
    "TracIn exact": (lambda: TracIn(projection=None), set()),
    "TracIn unit": (lambda: TracIn(Kronecker(4), normalise="unit"), set()),
    "TracIn adam": (lambda: TracIn(metric="adam"), set()),
    "TracIn whitened": (lambda: TracIn(Kronecker(4), metric="adam", whiten=1.0), set()),
    "TracIn learned": (lambda: TracIn(PCA(4)), {"permutation"}),  # rounding, then eigenvectors
    "DataInf": (DataInf, set()),
    "DataInf projected": (lambda: DataInf(1.0, Kronecker(4)), set()),
    "Random": (Random, {"planted"}),
    "BM25": (BM25, set()),
    "BM25 runs": (lambda: BM25(ngram=3), set()),
    "EmbeddingSimilarity": (EmbeddingSimilarity, set()),
    "RepresentationSimilarity": (RepresentationSimilarity, set()),
    "RepresentationSimilarity l2": (lambda: RepresentationSimilarity(1, "last", "l2"), set()),
    "EKFAC": (EKFAC, set()),
    "K-FAC": (lambda: EKFAC(corrected=False), set()),
    "EKFAC true": (lambda: EKFAC(labels="true"), set()),
    "SOURCE": (lambda: SOURCE(2), set()),
    "LESS": (LESS, set()),
    "LESS code exact": (lambda: LESS(None, form="code"), set()),
    "TRAK": (TRAK, set()),
    "TrackStar": (lambda: TrackStar(Kronecker(4)), set()),
    "TrackStar mixed": (lambda: TrackStar(Kronecker(4), mix=Mixture(texts(6, seed=3), 0.7)), set()),
    "TrackStar gradients": (lambda: TrackStar(Kronecker(4), moment="gradients"), set()),
}


@pytest.fixture(scope="module")
def problem():
    return NetworkProblem()


@pytest.mark.parametrize(("name", "law"), obeyed(ESTIMATORS))
def test_laws_hold_for_estimators_of_networks(name, law, problem):
    law(ESTIMATORS[name][0], problem)
