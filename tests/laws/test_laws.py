"""Every law over every estimator."""

from typing import Any

import numpy as np
import pytest

from influence.errors import InputError, NotFittedError
from influence.testing import LAWS, check_attributor
from tests.laws.cases import obeyed
from tests.laws.linear import LinearProblem, Newton
from tests.laws.trees import TreeProblem
from tests.tree_influence.models import LIBRARIES, TASKS
from tree_influence import (
    TREX,
    Averaged,
    BoostIn,
    InputSimilarity,
    LeafInfluence,
    LeafRefit,
    Random,
    SameClass,
    SplitInfluence,
    SubSample,
    TrainingLoss,
    TreeSim,
)

PROBLEM: Any = LinearProblem()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws_hold_for_a_linear_model(law):
    law(Newton, PROBLEM)


# A way to make each estimator, and the laws it cannot obey.
BY_POSITION = {"permutation", "duplicates"}  # what is drawn for a row is tied to its position
TREE_ESTIMATORS: dict[str, tuple[Any, set[str]]] = {
    "BoostIn": (BoostIn, set()),
    "BoostIn shrunken": (lambda: BoostIn(shrunken_leaves=True), set()),
    "BoostIn weighted": (lambda: BoostIn(weighted=2), set()),
    "LeafInfluence": (LeafInfluence, set()),
    "LeafInfluence self": (lambda: LeafInfluence(through="self"), set()),
    "LeafRefit": (LeafRefit, {"additivity"}),  # the effect of a group is that of the group
    "SplitInfluence": (SplitInfluence, set()),
    "TREX": (lambda: TREX(min_fidelity=-9), set()),
    "TreeSim": (TreeSim, set()),
    "TreeSim tree_output": (lambda: TreeSim("tree_output"), set()),
    "TreeSim weighted_feature_path": (lambda: TreeSim("weighted_feature_path"), set()),
    "InputSimilarity": (InputSimilarity, set()),
    "InputSimilarity cosine": (lambda: InputSimilarity("cosine"), set()),
    "Random": (Random, BY_POSITION | {"planted"}),
    "SameClass": (SameClass, BY_POSITION),
    "TrainingLoss": (TrainingLoss, {"diagonal", "planted"}),  # another sign for itself, by intent
}
# Those that train: one problem is enough.
TRAINED = {
    "Averaged": (lambda: Averaged(LeafInfluence(), n_models=2), set()),
    "Averaged SplitInfluence": (lambda: Averaged(SplitInfluence(), n_models=2), set()),
    "SubSample": (lambda: SubSample(n_models=10), BY_POSITION | {"planted"}),  # noise
}


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request):
    return request.param


@pytest.fixture(scope="module", params=TASKS)
def tree_problem(request, library):
    return TreeProblem(library, request.param)


@pytest.mark.parametrize(("estimator", "law"), obeyed(TREE_ESTIMATORS))
def test_laws_hold_for_trees(estimator, law, tree_problem):
    law(TREE_ESTIMATORS[estimator][0], tree_problem)


@pytest.mark.parametrize(("estimator", "law"), obeyed(TRAINED))
def test_laws_hold_for_what_trains(estimator, law):
    law(TRAINED[estimator][0], TreeProblem("lightgbm", "squared"))


def test_the_planted_query_is_mispredicted(tree_problem):
    _, query = tree_problem.planted
    X, y = (data[query : query + 1] for data in tree_problem.queries)
    assert np.abs(tree_problem.model.predict(X).ravel() - y).item() > 0.5


def test_newton_step_predicts_small_reweighting():
    """The example itself is right: compared with really refitting."""
    run = PROBLEM.run()
    values = Newton().fit(run).explain(*PROBLEM.queries).values
    queries = run.queries(*PROBLEM.queries)
    for i in (0, 7):
        weight = PROBLEM.weight.copy()
        weight[i] *= 1 - 1e-6
        changed = type(run)(PROBLEM.X, PROBLEM.y, weight)
        effect = (changed.losses(queries) - run.losses(queries)) / 1e-6
        np.testing.assert_allclose(effect, values[i], rtol=1e-3, atol=1e-7)


def turned(estimator):
    """An estimator whose sign is wrong."""
    add = estimator._add_columns

    def subtract(queries, out):
        add(queries, out)
        out *= -1

    estimator._add_columns = subtract
    return estimator


def test_a_broken_law_is_named():
    with pytest.raises(AssertionError, match="law of diagonal"):
        check_attributor(lambda: turned(Newton()), PROBLEM)
    planted = next(law for law in LAWS if law.__name__ == "planted")
    with pytest.raises(AssertionError, match="turned around"):
        planted(lambda: turned(Newton()), PROBLEM)


def test_an_unfitted_estimator_says_so():
    with pytest.raises(NotFittedError, match="call fit"):
        Newton().explain(*PROBLEM.queries)
    with pytest.raises(InputError, match="training data"):
        Newton().fit(object())
