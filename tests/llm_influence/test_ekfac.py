"""EK-FAC and K-FAC against dense matrices written from their equations."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from influence.errors import InputError, UnsupportedModelError
from llm_influence.curvature import Fisher, kronecker_curvature
from llm_influence.ekfac import EKFAC
from llm_influence.losses import causal_lm, token_losses
from llm_influence.outputs import draw_keys, outputs
from llm_influence.projection import Identity
from llm_influence.rows import RowMap
from llm_influence.run import trace
from tests.llm_influence.models import VOCABULARY, gpt2, labelled, llama, texts
from tests.reference import autograd, curvature


def drawn_losses(run, seed=0):
    """Losses of the training texts with the labels that were drawn, one at a time."""

    def one(i):
        example = run.examples[i : i + 1]
        batch = example.batch([0])
        with torch.no_grad():
            found = outputs(causal_lm, run.model, batch)
        drawn = found.sampled(draw_keys(example, seed)).labels[0]
        kept = found.weights[0] > 0

        def loss():
            logits = run.model(input_ids=batch["input_ids"]).logits[0, :-1]
            losses = F.cross_entropy(logits[kept], drawn[kept], reduction="sum")
            return losses / kept.sum().sqrt()

        return loss

    return [one(i) for i in range(run.n_train)]


@pytest.fixture(scope="module")
def untied():
    run = trace(llama(hidden_size=8, intermediate_size=12).double(), texts(9), batch_size=4)
    run.model.eval()
    return run


@pytest.mark.parametrize(
    ("name", "corrected"),
    [
        ("model.layers.1.mlp.down_proj", True),
        ("model.layers.0.self_attn.k_proj", True),
        ("model.layers.1.mlp.down_proj", False),
        ("lm_head", False),
        ("model.embed_tokens", True),
        ("model.embed_tokens", False),
    ],
)
def test_a_layer_has_the_curvature_of_its_dense_matrix(untied, name, corrected):
    run, losses = untied, drawn_losses(untied)
    rows_of = RowMap(run, Identity())
    found = kronecker_curvature(
        Fisher(run, [0], "sampled", 0, False), rows_of.bound.segments, corrected
    )
    a, s = curvature.factors(curvature.layer_sides(run.model, losses, name))
    gradients = np.stack(
        [g[0] for g in curvature.flat_gradients(run.model, losses, [f"{name}.weight"])]
    )
    if name == "model.embed_tokens":
        a, s = s, np.diag(np.diag(a))
    expected = curvature.ekfac(s, a, gradients) if corrected else curvature.kfac(s, a)
    eigen = found.blocks[f"{name}.weight"]
    size = eigen.values.numel()
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *eigen.values.shape)
    own = eigen.mapped(unit, lambda values: values).flatten(1).numpy()
    np.testing.assert_allclose(own, expected, atol=1e-5 * np.abs(expected).max())


def test_values_are_those_of_dense_matrices(untied):
    name, queries = "model.layers.0.mlp.up_proj", texts(3, seed=1)
    run = trace(untied.model, texts(9), batch_size=4, modules=name)
    found = EKFAC(damping=0.3).fit(run).explain(queries).values
    losses = drawn_losses(run)
    a, s = curvature.factors(curvature.layer_sides(run.model, losses, name))
    drawn = np.stack(
        [g[0] for g in curvature.flat_gradients(run.model, losses, [f"{name}.weight"])]
    )

    def true(examples):
        rows = [autograd.gradient(run.model, e)[f"{name}.weight"] for e in examples]
        return torch.stack(rows).flatten(1).numpy()

    dense = curvature.ekfac(s, a, drawn)
    expected = curvature.influence(true(texts(9)), true(queries), dense, 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_norms_and_tied_weights_have_the_second_moment_of_their_gradients():
    run = trace(gpt2(n_embd=8, n_layer=1).double(), texts(9), batch_size=4)
    run.model.eval()
    losses = drawn_losses(run)
    rows_of = RowMap(run, Identity())
    fisher = Fisher(run, [0], "sampled", 0, False)
    found = kronecker_curvature(fisher, rows_of.bound.segments, True).blocks
    name = "transformer.h.0.ln_1"
    both = curvature.flat_gradients(run.model, losses, [f"{name}.weight", f"{name}.bias"])
    rows = np.stack([np.concatenate(g) for g in both])
    own = found[f"{name}.weight"].mapped(torch.eye(16).double(), lambda v: v).numpy()
    np.testing.assert_allclose(own, rows.T @ rows / 9, atol=1e-10)
    tied = np.stack(
        [g[0] for g in curvature.flat_gradients(run.model, losses, ["transformer.wte.weight"])]
    )
    eigen = found["transformer.wte.weight"]
    assert eigen.bases[0] is None, "a matrix of vocabulary x vocabulary was made"
    assert float(eigen.values.sum()) == pytest.approx((tied**2).sum() / 9), (
        "gradients of the embedding and the head were squared before they were added"
    )
    plain = kronecker_curvature(fisher, rows_of.bound.segments, False).blocks
    parts = [
        [np.trace(f) for f in curvature.factors(curvature.layer_sides(run.model, losses, layer))]
        for layer in ("transformer.wte", "lm_head")
    ]
    assert float(plain["transformer.wte.weight"].values.sum()) == pytest.approx(
        sum(a * s for a, s in parts)
    )


def test_the_pooled_draws_have_the_gauss_newton_matrix():
    """With many draws the second moment of the drawn gradients is J^T H J of the mean loss."""
    model = gpt2(n_embd=4, n_layer=1, n_head=1, vocab_size=VOCABULARY).double().eval()
    example = texts(3)[2]
    run = trace(model, [example])
    names = ["transformer.h.0.mlp.c_proj.weight"]
    moment = np.zeros((64, 64))
    n_draws = 400
    for seed in range(n_draws):
        (loss,) = drawn_losses(run, seed)
        ((g,),) = curvature.flat_gradients(model, [loss], names)
        moment += np.outer(g, g) / n_draws
    ids = torch.as_tensor(example["input_ids"])[None]
    kept = torch.as_tensor(example["labels"])[1:] != -100

    def hessian(logits):
        weights = torch.full((len(logits),), 1.0 / int(kept.sum())).double()
        return curvature.softmax_hessian(logits, weights)

    exact = curvature.gauss_newton(
        lambda p: model(input_ids=ids).logits[0, :-1][kept],
        {name: dict(model.named_parameters())[name] for name in names},
        hessian,
    )
    assert np.trace(moment) == pytest.approx(np.trace(exact), rel=0.1)
    gap = np.linalg.norm(moment - exact) / np.linalg.norm(exact)
    assert gap < 0.3, f"off by {gap:.2f}: labels are not drawn from the model, or weights are wrong"


def test_draws_follow_the_content_of_an_example_and_the_seed(untied):
    run = untied
    order = [2, 0, 1]

    def draws(rows, seed):
        found = outputs(causal_lm, run.model, run.examples.batch(rows))
        keys = draw_keys(run.examples, seed)
        drawn = found.sampled([keys[i] for i in rows])
        return [labels[w > 0] for labels, w in zip(drawn.labels, found.weights, strict=True)]

    straight, turned = draws([0, 1, 2], 0), draws(order, 0)
    for place, i in enumerate(order):
        assert torch.equal(turned[place], straight[i]), "a draw depends on the batch"
    assert any(not torch.equal(a, b) for a, b in zip(straight, draws([0, 1, 2], 1), strict=True))


def own_loss(model, batch):
    losses, is_target = token_losses(model, batch)
    return losses.sum(1) / is_target.sum(1)


def test_a_loss_of_your_own_has_only_its_true_labels(untied):
    run = trace(untied.model, texts(6), loss=own_loss)
    with pytest.raises(UnsupportedModelError, match="true"):
        EKFAC().fit(run)
    values = EKFAC(labels="true").fit(run).explain(texts(2, seed=1)).values
    assert np.isfinite(values).all()


def test_a_class_is_drawn_for_a_classifier():
    from tests.llm_influence.models import bert

    run = trace(bert(), labelled(8))
    values = EKFAC().fit(run).self_influence()
    assert (values > 0).all()


@pytest.mark.parametrize("wrong", [{"damping": 0}, {"labels": "guessed"}, {"seed": -1}])
def test_wrong_options_are_refused(untied, wrong):
    with pytest.raises(InputError):
        EKFAC(**wrong).fit(untied)
