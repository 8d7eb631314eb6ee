"""Problems of recorded trainings are the recipes they say, and the evidence is kept and shown."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from benchmarks import order_evidence, order_tables
from benchmarks.llm_evidence import Kept
from benchmarks.llm_problems import LENGTH
from benchmarks.order_evidence import (
    METHODS,
    Entry,
    about_mean,
    held,
    measure_orders,
    measure_replays,
)
from benchmarks.order_problems import BATCH, ORDERS, REPLAYS, Setting, batches, samples
from influence.change import Reordered, Without
from influence.errors import TrainingDataError
from llm_influence import MeanField, Replay, retrainer

TINY = Setting(width=8, n_layers=1, n_batches=4, n_warm=2)


@pytest.fixture(autouse=True)
def made_up_text(monkeypatch):
    monkeypatch.delenv("INFLUENCE_DATA", raising=False)


def oracle_losses(model, ids):
    """transformers' own loss of each sequence."""
    with torch.no_grad():
        return [float(model(input_ids=row[None], labels=row[None]).loss) for row in ids]


def trained(run, taken, rates, beta2, carried):
    """The weights after torch's Adam on these batches, by transformers' own loss."""
    model = copy.deepcopy(run.model)
    model.load_state_dict(run.start)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, beta2))
    if carried:
        group = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": copy.deepcopy(run.state), "param_groups": group})
    for ids, rate in zip(taken, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("warm", [0, 2])
def test_orders_are_adam_on_batches_with_the_state_before(warm):
    problem = batches(replace(TINY, n_warm=warm, rate=3e-3, n_epochs=2), seed=3)
    run = problem.run
    assert {int(state["step"]) for state in run.state.values()} == ({warm} if warm else set())
    order = [2, 0, 3, 1, 1, 3, 2, 0]
    taken = [run.batch(i) for i in order]
    model = trained(run, taken, [3e-3] * 8, 0.999, warm > 0)
    before = [np.mean(oracle_losses(run.model, ids)) for ids in problem.queries]
    after = [np.mean(oracle_losses(model, ids)) for ids in problem.queries]
    found = retrainer(run, problem.queries)(Reordered(order))
    np.testing.assert_allclose(found, np.subtract(after, before), atol=2e-6)


def test_replays_are_a_warm_start_with_fresh_adam_and_a_falling_rate():
    setting = replace(REPLAYS["lds-1e-3"], width=8, n_layers=1, n_batches=3, n_warm=2)
    problem = samples(setting, seed=3)
    run = problem.run.by("sample")
    assert not run.state
    assert [len(run.batches.rows[i]) for i in run.order] == [BATCH] * 6
    assert run.n_train == len(problem.examples) == 3 * BATCH
    assert run.places.counts.tolist() == [2] * run.n_train
    rates = [1e-3 * (1 - 0.9 * step / 6) for step in range(6)]  # one step of rise
    np.testing.assert_allclose(np.ravel(run.recipe.rates), rates)
    ids = torch.stack([example["input_ids"] for example in problem.examples])
    model = trained(run, [ids[run.batches.rows[i]] for i in run.order], rates, 0.99, False)
    asked = torch.cat([query["input_ids"] for query in problem.queries])
    np.testing.assert_allclose(
        run.losses(run.queries(problem.queries)), oracle_losses(model, asked), atol=2e-6
    )


def test_the_cosine_rises_and_falls():
    setting = ORDERS["rate-3e-3"]
    shares = [setting.share_of_rate(step) for step in range(16)]
    falling = [(1 + math.cos(math.pi * k / 15)) / 2 for k in range(15)]
    np.testing.assert_allclose(shares, [0.5, *falling])


def test_the_start_is_torchs_or_transformers_own():
    ours = batches(replace(TINY, n_warm=0), seed=0).run.start["transformer.wte.weight"]
    own = batches(replace(TINY, n_warm=0, own_start=True), seed=0).run
    assert abs(float(ours.std()) - 1) < 0.1
    assert float(own.start["transformer.wte.weight"].std()) < 0.03
    assert "lm_head.weight" not in own.flat.names, "the head is tied"


def test_batches_come_from_parts_of_their_own():
    run = batches(TINY, seed=0).run
    assert run.n_batches == 4 and run.batch(0).shape == (BATCH, LENGTH)
    assert ORDERS["iid"].alike


def test_evidence_is_kept_and_shown(tmp_path, monkeypatch):
    monkeypatch.setitem(ORDERS, "tiny", replace(TINY, rate=1e-2))
    monkeypatch.setitem(REPLAYS, "lds-tiny", replace(TINY, n_batches=2, beta2=0.99, carried=False))
    monkeypatch.setattr(order_evidence, "MANY", 8)
    monkeypatch.setattr(order_evidence, "N_ORDERS", 5)
    monkeypatch.setattr(order_evidence, "N_SUBSETS", 4)
    monkeypatch.setattr(
        order_evidence,
        "METHODS",
        {"ceiling": METHODS["ceiling: Taylor(1, 'exact', 'products')"],
         "MeanField()": Entry(MeanField(2), searches=True)},
    )  # fmt: skip
    monkeypatch.setattr(
        order_evidence, "REPLAYED", {"Replay": lambda: Replay("sample", calibrate=0)}
    )
    kept = Kept(tmp_path / "results.json")
    measure_orders(kept, tmp_path / "cache", "tiny", 0)
    measure_replays(kept, tmp_path / "cache", "lds-tiny", 0)
    ceiling, found = kept.results["tiny | 0 | ceiling"], kept.results["tiny | 0 | MeanField()"]
    assert ceiling["spearman"] > 0.9 and ceiling["about mean"] < 0.3
    assert set(found) > {"build", "query", "order", "bytes", "found", "search", "slope", "mae"}

    problem = batches(ORDERS["tiny"], 0)
    whole = [torch.cat(problem.queries)]
    real = [
        retrainer(problem.run, whole)(change)[0] for change in order_evidence.random_orders(4, 5, 0)
    ]
    told = kept.results["tiny | 0 | real"]
    np.testing.assert_allclose([told["best"], told["mean"]], [min(real), np.mean(real)], atol=1e-6)

    monkeypatch.setattr(order_evidence, "batches", None)  # nothing is trained again
    monkeypatch.setattr(order_evidence, "samples", None)
    again = Kept(tmp_path / "results.json")
    measure_orders(again, tmp_path / "cache", "tiny", 0)
    measure_replays(again, tmp_path / "cache", "lds-tiny", 0)
    assert again.results == json.loads((tmp_path / "results.json").read_text())

    shown = order_tables.page(again.results)
    assert f"{ceiling['spearman']:.3f}" in shown
    assert f"{again.results['lds-tiny | 0 | Replay']['spearman']:.3f}" in shown


def test_replay_is_judged_by_really_left_out_samples(tmp_path, monkeypatch):
    monkeypatch.setitem(REPLAYS, "loo-tiny", replace(TINY, n_batches=1, rate=1e-2, carried=False))
    monkeypatch.setattr(order_evidence, "TRACED", {})
    monkeypatch.setattr(
        order_evidence, "REPLAYED", {"Replay": lambda: Replay("sample", calibrate=0)}
    )
    kept = Kept(tmp_path / "results.json")
    measure_replays(kept, tmp_path / "cache", "loo-tiny", 0)
    problem = samples(REPLAYS["loo-tiny"], 0)
    real = retrainer(problem.run.by("sample"), problem.queries)
    effects = np.stack([real(Without([i])) for i in range(BATCH)])
    values = Replay("sample", calibrate=0).fit(problem.run).explain(problem.queries).values
    ranks = [effects.argsort(axis=0).argsort(axis=0), values.argsort(axis=0).argsort(axis=0)]
    pairs = zip(ranks[0].T, ranks[1].T, strict=True)
    expected = np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])
    assert kept.results["loo-tiny | 0 | Replay"]["spearman"] == pytest.approx(expected)


def test_a_failure_is_kept_and_the_others_go_on():
    def diverged():
        raise TrainingDataError("diverged")

    assert order_evidence.able(diverged) == {"failed": "diverged"}
    assert order_evidence.able(lambda: 1) == 1


def test_what_diverged_or_was_left_out_is_said():
    one = {"spearman": 0.5, "interval": [0.4, 0.6], "of mean": 0.5, "slope": 1.0, "mae": 1.0,
           "about mean": 1.0, "build": 1.0, "query": 1.0, "order": 1.0, "bytes": 0}  # fmt: skip
    results = {"base | 10 | A": one, "base | 11 | A": {"failed": "x"}, "base | 10 | B": None}
    frame = order_tables.by_setting(results, ORDERS, order_tables.spearman)
    assert frame["base"].tolist()[0] == "0.500 [0.40, 0.60]; 0.500; 1 of 2 failed"
    assert frame["base"].isna().tolist() == [False, True]


def test_errors_about_the_mean_forget_a_constant():
    real = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 8.0]])
    assert about_mean(real + np.array([5.0, -7.0]), real) == pytest.approx(0)
    mean = about_mean(0 * real, real)
    each = [np.abs(column - column.mean()).mean() / column.std() for column in real.T]
    assert mean == pytest.approx(np.mean(each))


def test_tensors_are_counted_once_and_the_run_is_not():
    tensor = torch.zeros(10)
    run = batches(TINY, 0).run
    queries = run.queries([run.batch(0)])
    assert held([tensor, tensor[2:], (np.zeros(3), run, run.model, queries)]) == 40 + 24
