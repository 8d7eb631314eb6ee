"""TrackStar against its equations on explicit gradients."""

import copy

import numpy as np
import pytest

from influence.errors import InputError, MissingParameterError
from llm_influence import Dense, Identity, Kronecker, trace
from llm_influence.trackstar import Mixture, TrackStar
from tests.laws.networks import NetworkProblem
from tests.llm_influence import explicit
from tests.llm_influence.models import lora, texts
from tests.reference import autograd, projected

OTHERS = texts(7, seed=5)


@pytest.fixture(scope="module")
def problem():
    return NetworkProblem()


def second_moment(checkpoint):
    adam = explicit.adam(checkpoint)
    return explicit.moment(checkpoint, "exp_avg_sq") / (1 - adam["betas"][1] ** adam["step"])


def oracle(problem, run, estimator):
    P = explicit.matrix(run, estimator.projection)
    groups = explicit.groups(run, estimator.projection)
    values = []
    for checkpoint in problem.checkpoints:
        model = explicit.at(copy.deepcopy(problem.model), checkpoint)
        train, queries, others = (
            autograd.flat(model, given).numpy()
            for given in (problem.examples, problem.queries[0], OTHERS)
        )
        by_adam = estimator.moment == "adam"
        root = np.sqrt(second_moment(checkpoint) if by_adam else (train**2).mean(0))
        known = np.sort(root[root > 0])
        eps = known[(len(known) - 1) // 2] if estimator.eps is None else estimator.eps
        mixed, share = (None, 0) if estimator.mix is None else (others, estimator.mix.share)
        values.append(
            projected.trackstar(
                train, queries, mixed, root + eps, P, groups, share, estimator.damping
            )
        )
    return np.mean(values, axis=0)


@pytest.mark.parametrize(
    "estimator",
    [
        TrackStar(Kronecker(3)),
        TrackStar(Kronecker(3), damping=0.1, eps=1e-4),
        TrackStar(Kronecker(3), mix=Mixture(OTHERS, 0.7)),
        TrackStar(Dense(20), mix=Mixture(OTHERS, 0.2)),
        TrackStar(Kronecker(3), moment="gradients"),
    ],
    ids=repr,
)
def test_values_are_cosines_of_whitened_rows(problem, estimator):
    run = problem.run()
    found = copy.deepcopy(estimator).fit(run).explain(*problem.queries)
    assert found.provenance.unit == "similarity"
    explicit.close(found.values, oracle(problem, run, estimator))


def test_tokens_add_up_to_their_sequences(problem):
    estimator = TrackStar(Kronecker(3)).fit(problem.run())
    values = estimator.explain(problem.queries[0][:1]).values[:, 0]
    split = estimator.tokens(problem.queries[0][:1], [0, 3])
    for k, i in enumerate([0, 3]):
        explicit.close(split.of_train[k].sum(), values[i])
        explicit.close(split.of_query[k].sum(), values[i])


def test_parameters_without_gradients_count_for_nothing():
    model = lora()
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data.zero_()  # so that the gradients of A are zero
    run = trace(model, texts(6))
    values = TrackStar(Kronecker(4), moment="gradients").fit(run).explain(texts(3, seed=1)).values
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= 1 + 1e-5


def test_without_adams_state_the_other_moment_is_named(problem):
    with pytest.raises(MissingParameterError, match='TrackStar\\(moment="gradients"\\)'):
        TrackStar().fit(trace(problem.model, problem.examples))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"damping": 0}, "damping must be a finite number above 0"),
        ({"eps": -1.0}, "eps must be a finite number above 0"),
        ({"moment": "rms"}, "moment must be"),
        ({"mix": OTHERS}, "mix must be Mixture"),
    ],
)
def test_bad_arguments_are_named(arguments, match):
    with pytest.raises(InputError, match=match):
        TrackStar(**arguments)


def test_too_wide_a_projection_is_refused(problem, monkeypatch):
    monkeypatch.setattr("llm_influence.trackstar.MOST_SIDE", 100)
    with pytest.raises(InputError, match="at most 100 columns"):
        TrackStar(Identity()).fit(problem.run())
    with pytest.raises(InputError, match="share"):
        Mixture(OTHERS, 1.5)
