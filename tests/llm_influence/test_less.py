"""LESS against Adam's step on explicit gradients, and the selection it is for."""

import copy

import numpy as np
import pandas as pd
import pytest

from influence.errors import InputError, MissingParameterError, StorageError
from influence.result import Influence, Provenance
from llm_influence import Checkpoint, Dense, Kronecker, trace
from llm_influence.less import LESS, select
from tests.laws.networks import NetworkProblem
from tests.llm_influence import explicit
from tests.reference import autograd, projected


@pytest.fixture(scope="module")
def problem():
    return NetworkProblem()


def oracle(problem, run, projection, code):
    P = explicit.matrix(run, projection)
    total = 0
    for checkpoint in problem.checkpoints:
        model = explicit.at(copy.deepcopy(problem.model), checkpoint)
        m, v = (explicit.moment(checkpoint, name) for name in ("exp_avg", "exp_avg_sq"))
        train, queries = (
            autograd.flat(model, given).numpy() for given in (problem.examples, problem.queries[0])
        )
        cosines = projected.less(train, queries, m, v, explicit.adam(checkpoint), P, code)
        total = total + checkpoint.rate * cosines
    return total


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("projection", [Kronecker(3), Dense(20), None], ids=repr)
def test_values_are_cosines_with_adams_steps(problem, projection, form):
    run = problem.run()
    found = LESS(projection, form=form).fit(run).explain(*problem.queries)
    assert found.provenance.unit == "similarity"
    shown = Kronecker(10**6) if projection is None else projection  # which keeps everything
    explicit.close(found.values, oracle(problem, run, shown, form == "code"))


def test_the_two_forms_differ(problem):
    run = problem.run()
    paper, code = (
        LESS(form=form).fit(run).explain(*problem.queries).values for form in ("paper", "code")
    )
    assert np.abs(paper - code).max() > 0.01 * np.abs(paper).max(), "the form changes nothing"


def test_second_moments_alone_are_refused(problem):
    names = [name for name, _ in problem.model.named_parameters()]
    state = problem.checkpoints[0].adam["state"]
    only = {name: state[k]["exp_avg_sq"] for k, name in enumerate(names)}
    moments = [Checkpoint(adam=only)]
    with pytest.raises(MissingParameterError, match="both of Adam's moments"):
        LESS().fit(trace(problem.model, problem.examples, checkpoints=moments))
    with pytest.raises(MissingParameterError, match="without the state of Adam"):
        LESS().fit(trace(problem.model, problem.examples))


def test_tokens_are_refused_since_the_step_is_not_linear(problem):
    estimator = LESS().fit(problem.run())
    with pytest.raises(InputError, match="no sum over its tokens"):
        estimator.tokens(problem.queries[0][:1], [0])


def test_a_store_of_another_state_is_refused(problem, tmp_path):
    LESS().fit(problem.run(), store=tmp_path / "rows")
    other = copy.deepcopy(problem.checkpoints)
    other[1].adam["state"][0]["exp_avg"] *= 2
    run = trace(problem.model, problem.examples, checkpoints=other)
    with pytest.raises(StorageError, match="adam"):
        LESS().fit(run, store=tmp_path / "rows")


def test_select_takes_the_best_of_the_subtasks():
    values = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 3.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.5]])
    stated = Provenance("LESS", {}, "similarity", "")
    found = Influence(values, pd.RangeIndex(4), pd.RangeIndex(3), stated)
    assert select(found, 0.5, ["a", "a", "b"]).tolist() == [1, 2]
    assert select(found, 0.75, ["a", "a", "b"]).tolist() == [1, 2, 0]
    assert select(found, 0.5).tolist() == [1, 2]
    with pytest.raises(InputError, match="subtask for each of 3 queries"):
        select(found, 0.5, ["a", "b"])
    with pytest.raises(InputError, match="share"):
        select(found, 2)
