"""`retrainer` on a recipe that is over in milliseconds, and campaigns of it."""

import numpy as np
import pytest
import torch

from influence import Campaign, Reordered, Reweighted, Without, agreement, random_subsets
from influence.errors import InputError, RetrainingError, UnsupportedChangeError
from llm_influence import TracIn, retrainer, trace
from llm_influence.losses import classification
from tests.llm_influence.linear_networks import LinearHead, classes

TRAIN, QUERIES = classes(12), classes(4, seed=1)
BATCH, STEPS, RATE = 4, 12, 0.1


def start():
    return LinearHead(4, 3)


def sgd(model, examples, weights):
    """Plain steps from the start, over the examples in turn; every example is seen four times."""
    model.load_state_dict(start().state_dict())
    model.eval()
    given = torch.from_numpy(weights)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for step in range(STEPS):
        rows = (np.arange(BATCH) + BATCH * step) % len(weights)
        optimizer.zero_grad()
        loss = (given[rows] * classification(model, examples.batch(rows))).sum() / BATCH
        loss.backward()
        optimizer.step()
    return model


def diverging(model, examples, weights):
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    return model


def forgetful(model, examples, weights):
    sgd(model, examples, weights)


@pytest.fixture(scope="module")
def run():
    model = start()
    begun = trace(model, TRAIN, loss=classification)
    sgd(model, begun.examples, np.ones(len(TRAIN)))
    return trace(model, TRAIN, loss=classification)


@pytest.fixture(scope="module")
def retrain(run):
    return retrainer(run, sgd, QUERIES)


def test_all_weights_one_give_the_traced_losses(run, retrain):
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    np.testing.assert_allclose(retrain.base, run.losses(run.queries(QUERIES)), rtol=1e-12)
    assert np.abs(retrain(Without([]))).max() == 0
    assert np.abs(retrain(Reweighted(np.ones(12)))).max() == 0
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_a_change_is_the_recipe_with_its_weights(run, retrain):
    weights = np.ones(12)
    weights[[2, 5]] = 0
    again = sgd(start(), run.examples, weights)
    expected = run.losses_of(again, run.queries(QUERIES)) - retrain.base
    np.testing.assert_allclose(retrain(Without([5, 2])), expected, rtol=1e-12)
    np.testing.assert_allclose(retrain(Reweighted(weights)), expected, rtol=1e-12)


def test_tracin_agrees_with_it(run, retrain):
    predicted = TracIn(projection=None).fit(run).explain(QUERIES)
    agreed = agreement(predicted.predict, retrain, random_subsets(12, 0.5, 16, seed=0))
    assert agreed.mean > 0.3, "leaving out proponents must raise the loss: is the sign wrong?"


def test_it_travels_to_workers_with_its_base(retrain):
    """Workers of joblib get a copy for every task: the training of all weights 1 comes along."""
    cloudpickle = pytest.importorskip("cloudpickle")  # what joblib's workers are sent by
    change = Without([3])
    sent = cloudpickle.loads(cloudpickle.dumps(retrain))
    np.testing.assert_array_equal(sent.base, retrain.base)
    np.testing.assert_allclose(sent(change), retrain(change), rtol=1e-12)


def test_a_campaign_trains_each_change_once(run, tmp_path):
    trained = []

    def counted(model, examples, weights):
        trained.append(weights)
        return sgd(model, examples, weights)

    retrain = retrainer(run, counted, QUERIES)
    changes = [Without([i]) for i in (0, 1, 0)]
    found = Campaign(retrain, tmp_path, n_jobs=1, progress=False).effects(changes)
    assert len(trained) == 1 + 2
    resumed = Campaign(retrain, tmp_path, n_jobs=1, progress=False)
    np.testing.assert_array_equal(resumed.effects([*changes, Without([2])])[:3], found)
    assert len(trained) == 1 + 3


def test_the_fingerprint_tells_runs_queries_and_recipes_apart(run, retrain):
    other = trace(run.model, TRAIN[:11], loss=classification)
    marks = {
        retrain.fingerprint,
        retrainer(other, sgd, QUERIES).fingerprint,
        retrainer(run, sgd, QUERIES[:2]).fingerprint,
        retrainer(run, sgd, QUERIES, recipe="rate 0.1").fingerprint,
    }
    assert len(marks) == 4
    assert retrainer(run, sgd, QUERIES).fingerprint == retrain.fingerprint


def test_recipes_and_changes_that_do_not_work_are_named(run, retrain):
    with pytest.raises(RetrainingError, match="not finite"):
        retrainer(run, diverging, QUERIES)
    with pytest.raises(InputError, match="returns the trained model, got a NoneType"):
        retrainer(run, forgetful, QUERIES)
    with pytest.raises(UnsupportedChangeError, match="Reordered"):
        retrain(Reordered([0, 1]))
    with pytest.raises(InputError, match="row 12"):
        retrain(Without([12]))
