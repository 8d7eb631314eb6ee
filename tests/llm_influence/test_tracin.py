"""TracIn against autograd one example at a time, in any batch and any padding."""

import numpy as np
import pytest
import torch

from influence.errors import InputError, MissingParameterError
from llm_influence import Checkpoint, Dense, Kronecker, TracIn, trace
from tests.llm_influence.models import bert, gpt2, labelled, llama, texts
from tests.reference import autograd

TRAIN, QUERIES = texts(10), texts(4, seed=1)


def close(found, expected, precision=1e-5):
    gap = np.abs(found - expected).max() / np.abs(expected).max()
    assert gap < precision, f"off by {gap:.2g} of the largest value"


def exact(model, train=TRAIN, queries=QUERIES):
    return (autograd.flat(model, train) @ autograd.flat(model, queries).T).numpy()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_grad_dot_is_that_of_autograd_in_any_batch(make, batch_size):
    model = make()
    found = TracIn(projection=None).fit(trace(model, TRAIN, batch_size=batch_size))
    close(found.explain(QUERIES).values, exact(model))


def test_grad_dot_of_a_classifier():
    model, train, queries = bert(), labelled(6), labelled(3, seed=1)
    found = TracIn(projection=None).fit(trace(model, train)).explain(queries).values
    close(found, exact(model, train, queries))


def test_padding_in_the_examples_changes_nothing():
    model = gpt2()
    padded = [
        {
            "input_ids": [*e["input_ids"], 7, 7],
            "labels": [*e["labels"], -100, -100],
            "attention_mask": [1] * len(e["input_ids"]) + [0, 0],
        }
        for e in TRAIN
    ]
    values = [
        TracIn().fit(trace(model, given)).explain(QUERIES).values for given in (TRAIN, padded)
    ]
    close(values[1], values[0])


def test_grad_cos_is_the_cosine():
    model = gpt2()
    train, queries = autograd.flat(model, TRAIN), autograd.flat(model, QUERIES)
    expected = torch.cosine_similarity(train[:, None], queries[None], dim=2).numpy()
    found = TracIn(projection=None, normalise="unit").fit(trace(model, TRAIN)).explain(QUERIES)
    close(found.values, expected)
    assert found.provenance.unit == "similarity"


def checkpoints(model, rates):
    """Two checkpoints with second moments that differ from parameter to parameter."""
    found = []
    for seed, rate in enumerate(rates):
        generator = torch.Generator().manual_seed(seed)
        weights = {
            name: value + 0.01 * torch.randn(value.shape, generator=generator)
            for name, value in model.state_dict().items()
            if name != "lm_head.weight"
        }
        adam = {
            name: torch.rand(p.shape, generator=generator) ** 4
            for name, p in model.named_parameters()
        }
        found.append(Checkpoint(weights, rate=rate, adam=adam))
    return found


def test_checkpoints_add_with_their_rates_and_the_model_is_as_before():
    model = gpt2()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moments = checkpoints(model, [0.1, 0.3])
    found = TracIn(projection=None).fit(trace(model, TRAIN, checkpoints=moments)).explain(QUERIES)
    assert found.provenance.unit == "loss"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    expected = 0
    for moment in moments:
        model.load_state_dict(moment.weights, strict=False)
        expected = expected + moment.rate * exact(model)
    close(found.values, expected)


@pytest.mark.parametrize("eps", [1e-3, None])
def test_adams_metric_divides_by_root_v(eps):
    model = gpt2()
    (moment,) = checkpoints(model, [None])
    estimator = TracIn(projection=None, metric="adam", eps=eps)
    found = estimator.fit(trace(model, TRAIN, checkpoints=[moment])).explain(QUERIES).values
    model.load_state_dict(moment.weights, strict=False)
    root = torch.cat([moment.adam[name].flatten() for name, _ in model.named_parameters()]).sqrt()
    metric = 1 / (root + (root.median() if eps is None else eps))
    train, queries = autograd.flat(model, TRAIN), autograd.flat(model, QUERIES)
    close(found, ((train * metric) @ queries.T).numpy())


@pytest.mark.parametrize("n_train", [4, 10])
def test_whitening_is_the_inverse_second_moment(n_train):
    model = gpt2(n_embd=4, n_layer=1, n_head=1).double()  # rows longer than there are examples
    given = TRAIN[:n_train]
    found = TracIn(projection=None, whiten=0.5).fit(trace(model, given)).explain(QUERIES).values
    train, queries = autograd.flat(model, given), autograd.flat(model, QUERIES)
    ridge = 0.5 * train.square().sum(1).mean() / n_train
    moment = train.T @ train / n_train + ridge * torch.eye(train.shape[1], dtype=torch.float64)
    close(found, (train @ torch.linalg.solve(moment, queries.T)).numpy(), 1e-8)


def test_whitening_with_more_examples_than_columns_is_the_same():
    model = gpt2(n_embd=4, n_layer=1, n_head=1).double()
    many = texts(60, seed=3)
    run = trace(model, many)
    estimator = TracIn(Kronecker(1), whiten=1.0).fit(run)
    rows = estimator.steps_[0].train.take(0, slice(0, 60))
    assert rows.shape[1] < 60
    asked = estimator.steps_[0].query_of.rows(0, run.queries(QUERIES))
    ridge = rows.square().sum(1).mean() / 60
    moment = rows.T @ rows / 60 + ridge * torch.eye(rows.shape[1], dtype=torch.float64)
    expected = rows @ torch.linalg.solve(moment, asked.T)
    close(estimator.explain(QUERIES).values, expected.numpy(), 1e-8)


@pytest.mark.parametrize(
    "options",
    [{}, {"projection": None}, {"normalise": "unit"}, {"whiten": 1.0}, {"metric": "adam"}],
    ids=str,
)
def test_tokens_add_up_to_their_sequences(options):
    model = gpt2().double()
    (moment,) = checkpoints(model, [0.5])
    estimator = TracIn(**options).fit(trace(model, TRAIN, checkpoints=[moment]))
    values = estimator.explain(QUERIES[:1]).values[:, 0]
    split = estimator.tokens(QUERIES[:1], [0, 3, 5])
    for k, i in enumerate([0, 3, 5]):
        assert len(split.of_train[k]) == len(TRAIN[i]["input_ids"])
        assert len(split.of_query[k]) == len(QUERIES[0]["input_ids"])
        close(split.of_train[k].sum(), values[i], 1e-6)
        close(split.of_query[k].sum(), values[i], 1e-6)
    assert len(split.frame("query")) == 3 * len(QUERIES[0]["input_ids"])


def test_a_tokens_part_is_what_its_position_adds_to_the_gradient():
    """The last layer's part of token t: its input there times the loss's gradient there."""
    model = llama(tie_word_embeddings=False).double()
    run = trace(model, TRAIN, modules="lm_head")
    split = TracIn(projection=None).fit(run).tokens(QUERIES[:1], [1])
    head = model.lm_head.weight
    own = autograd.gradient(model, QUERIES[0])["lm_head.weight"]
    ids = torch.tensor(TRAIN[1]["input_ids"])[None]
    hidden = model.model(input_ids=ids).last_hidden_state[0].detach()
    logits = (hidden @ head.T).detach().requires_grad_()
    (-logits[:-1].log_softmax(-1)[range(len(ids[0]) - 1), ids[0, 1:]].mean()).backward()
    expected = ((logits.grad @ own) * hidden).sum(1)
    np.testing.assert_allclose(split.of_train[0], expected.detach().numpy(), atol=1e-9)


def test_a_loss_of_your_own_is_explained():
    model = gpt2().double()
    estimator = TracIn(projection=None).fit(trace(model, TRAIN))
    with estimator.trace(model) as asked:
        loss = autograd.loss_of(model, QUERIES[0]) + 2 * autograd.loss_of(model, QUERIES[1])
        loss.backward()
    values = exact(model)
    close(asked.explain().values[:, 0], values[:, 0] + 2 * values[:, 1], 1e-9)
    with pytest.raises(InputError, match="backward"), estimator.trace(model):
        pass


def test_self_influence_is_the_squared_length():
    model = gpt2()
    own = TracIn(projection=None).fit(trace(model, TRAIN)).self_influence()
    close(own, autograd.flat(model, TRAIN).square().sum(1).numpy())


@pytest.mark.parametrize("options", [{}, {"metric": "adam", "whiten": 1.0}], ids=str)
def test_rows_that_do_not_fit_into_memory_are_worked_out_anew(monkeypatch, options):
    model = gpt2()
    optimizer = torch.optim.Adam(model.parameters(), 0.0)
    autograd.loss_of(model, TRAIN[0]).backward()
    optimizer.step()
    run = trace(model, TRAIN, checkpoints=[Checkpoint(adam=optimizer)])
    held = TracIn(**options).fit(run).explain(QUERIES).values
    monkeypatch.setattr("llm_influence.rows.MOST_HELD", 0)
    monkeypatch.setattr("llm_influence.rows.MOST_AT_ONCE", 50_000)
    monkeypatch.setattr("llm_influence.whitening.MOST_AT_ONCE", 50_000)
    anew = TracIn(**options).fit(run)
    close(anew.explain(QUERIES).values, held, 1e-4)
    close(anew.explain_top(QUERIES, k=1).highest[:, 0], held.max(0))


def test_a_store_gives_the_same_values_and_grows(tmp_path):
    model = gpt2()
    held = TracIn(Kronecker(4)).fit(trace(model, TRAIN)).explain(QUERIES).values
    first = TracIn(Kronecker(4)).fit(trace(model, TRAIN[:7]), store=tmp_path / "store")
    close(first.explain(QUERIES).values, held[:7])
    grown = TracIn(Kronecker(4)).fit(trace(model, TRAIN), store=tmp_path / "store")
    close(grown.explain(QUERIES).values, held)


def test_projections_agree_with_the_exact_products_on_average():
    model = gpt2()
    expected = exact(model)
    for make in (lambda seed: Kronecker(8, seed=seed), lambda seed: Dense(256, seed=seed)):
        drawn = [
            TracIn(make(seed)).fit(trace(model, TRAIN)).explain(QUERIES).values
            for seed in range(12)
        ]
        spread = np.std(drawn, axis=0, ddof=1) / np.sqrt(len(drawn))
        off = (np.mean(drawn, axis=0) - expected) / spread
        assert np.abs(off).mean() < 1.5, "the mean over seeds is not the exact product: biased"


def test_wrong_arguments_are_refused():
    run = trace(gpt2(), TRAIN)
    for wrong in ({"normalise": "l1"}, {"metric": "sgd"}, {"whiten": 0.0}, {"eps": -1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TracIn(**wrong)
    with pytest.raises(MissingParameterError):
        TracIn(metric="adam").fit(run)
    with pytest.raises(InputError, match="one query"):
        TracIn().fit(run).tokens(QUERIES, [0])


def test_a_loss_that_is_not_finite_names_the_example():
    model = llama(tie_word_embeddings=False)
    clean = [{"input_ids": [3, 4, 5]}, {"input_ids": [6, 7, 8, 9]}]
    with torch.no_grad():
        model.model.embed_tokens.weight[40] = float("nan")
    with pytest.raises(InputError, match=r"got nan for example 2 "):
        TracIn().fit(trace(model, [*clean, {"input_ids": [3, 40, 5, 6, 7]}]))
    with torch.no_grad():
        model.lm_head.weight[:] = float("inf")
    with pytest.raises(InputError, match="finite loss, got nan for example 0"):
        trace(model, clean)
