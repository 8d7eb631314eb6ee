"""Language-model problems: retraining is the recorded recipe, and a campaign keeps it."""

import copy
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from benchmarks import llm_campaign, llm_problems
from benchmarks.llm_problems import SETTINGS, Setting, example_losses, make
from influence.change import Reordered, Reweighted, Without
from influence.errors import UnsupportedChangeError
from tests.reference import adam_training

TINY = Setting(
    width=8, n_layers=1, n_train=12, n_queries=4, batch_size=4, n_warm=2, n_subsets=4, peak=3e-3
)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def problem(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("INFLUENCE_DATA", raising=False)
        return make(request.param, replace(TINY, family=request.param))


def ids(examples):
    return torch.stack([example["input_ids"] for example in examples])


def test_weights_of_one_give_the_traced_model(problem):
    with torch.no_grad():
        losses = example_losses(problem.model, ids(problem.queries)).double().numpy()
    np.testing.assert_array_equal(problem.losses(np.ones(12)), losses)
    np.testing.assert_array_equal(problem.retrain(Without([])), np.zeros(4))


def test_losses_are_those_of_transformers(problem):
    own = [
        problem.model(**{k: v[None] for k, v in query.items()}).loss.item()
        for query in problem.queries
    ]
    np.testing.assert_allclose(problem.retrain.base, own, rtol=1e-6)


def test_retraining_is_adam_with_weighted_examples(problem):
    weights = np.random.default_rng(0).integers(0, 3, 12) / 2
    recipe, n_steps = problem.retrain.recipe, 6
    peaks = [min(1, t + 1) * (1 - 0.9 * t / n_steps) for t in range(n_steps)]
    model = copy.deepcopy(recipe.start)
    model.load_state_dict(problem.start)
    adam_training.train(
        model, ids(problem.train), recipe.order, weights, [3e-3 * peak for peak in peaks]
    )
    with torch.no_grad():
        losses = example_losses(model, ids(problem.queries)).numpy()
    effects = problem.retrain(Reweighted(weights))
    assert np.abs(effects).max() > 1e-4
    np.testing.assert_allclose(effects, losses - problem.retrain.base, atol=2e-6)


def test_checkpoints_are_moments_of_the_training(problem):
    recipe = problem.retrain.recipe
    model = copy.deepcopy(recipe.start)
    rates = [recipe.rate(step) for step in range(6)]
    squares = adam_training.train(model, recipe.train, recipe.order, np.ones(12), rates)
    assert [moment.step for moment in problem.checkpoints] == [2, 3, 5, 6]
    assert problem.rates == [rates[2], rates[3], rates[5], rates[5]]
    for moment in problem.checkpoints:
        expected = squares[moment.step - 1]
        held = dict(zip(expected, moment.adam["state"].values(), strict=True))
        for name, entry in held.items():
            torch.testing.assert_close(entry["exp_avg_sq"], expected[name], rtol=1e-3, atol=1e-9)
    for name, weight in problem.model.state_dict().items():
        assert torch.equal(problem.checkpoints[-1].weights[name], weight)


def test_half_of_the_queries_are_moved_training_sequences(problem):
    train, queries = ids(problem.train), ids(problem.queries)
    for j in (0, 1):
        assert torch.equal(queries[j], torch.cat([train[j, 10:], train[j, :10]]))
    assert sorted(torch.cat(problem.retrain.recipe.order).tolist()) == sorted([*range(12)] * 2)


def test_a_change_of_order_is_refused(problem):
    with pytest.raises(UnsupportedChangeError):
        problem.retrain(Reordered([0, 1]))


def test_the_fingerprint_tells_problems_apart(problem, monkeypatch):
    monkeypatch.delenv("INFLUENCE_DATA", raising=False)
    again = make("again", replace(problem.setting, n_subsets=2))
    other = make("other", replace(problem.setting, peak=1e-3))
    assert again.retrain.fingerprint == problem.retrain.fingerprint, "the subsets are no part of it"
    assert other.retrain.fingerprint != problem.retrain.fingerprint


def test_bm25_is_that_of_the_library(problem):
    bm25s = pytest.importorskip("bm25s")

    def words(example):
        row = example["input_ids"].tolist()
        return ["-".join(map(str, row[i : i + 3])) for i in range(len(row) - 2)]

    index = bm25s.BM25(method="lucene", k1=1.2, b=0.0)
    index.index([words(example) for example in problem.train], show_progress=False)
    for j, query in enumerate(problem.queries):
        found = 2.2 * index.get_scores(sorted(set(words(query))))
        np.testing.assert_allclose(llm_campaign.bm25(problem)[:, j], found, rtol=1e-5)


def test_a_campaign_trains_nothing_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("INFLUENCE_DATA", raising=False)
    monkeypatch.setitem(SETTINGS, "gpt2", TINY)
    arguments = ["llm_campaign", "--cache", str(tmp_path), "--settings", "gpt2"]
    monkeypatch.setattr(sys, "argv", arguments)
    llm_campaign.main()
    told = json.loads(capsys.readouterr().out)
    assert (told["setting"], told["changes"], told["steps"]) == ("gpt2", 4, 6)
    assert -1 <= told["BM25"] <= 1
    assert len(list(tmp_path.glob("*.npz"))) == 4
    monkeypatch.setattr(llm_problems.Retrain, "__call__", None)
    llm_campaign.main()
    again = json.loads(capsys.readouterr().out)
    assert again["BM25"] == told["BM25"]


def test_leaving_one_out_is_asked_for_by_no_subsets():
    changes = replace(TINY, n_subsets=0).changes()
    assert [change.rows.tolist() for change in changes] == [[i] for i in range(12)]
