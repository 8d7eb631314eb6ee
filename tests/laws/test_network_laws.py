"""Every law over every estimator of networks."""

from typing import Any

import pytest

from influence.testing import LAWS
from llm_influence import LESS, PCA, TRAK, Kronecker, Mixture, TracIn, TrackStar
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


@pytest.mark.parametrize(
    ("name", "law"),
    [
        pytest.param(name, law, id=f"{name}-{law.__name__}")
        for name, (_, exempt) in ESTIMATORS.items()
        for law in LAWS
        if law.__name__ not in exempt
    ],
)
def test_laws_hold_for_estimators_of_networks(name, law, problem):
    law(ESTIMATORS[name][0], problem)
