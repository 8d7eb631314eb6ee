"""A model that is not what it was when it was traced is refused, and comes back as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from influence.errors import InputError, UnsupportedModelError
from llm_influence import TracIn, trace
from llm_influence.losses import causal_lm
from tests.llm_influence.models import gpt2, lora, texts
from tests.reference import autograd

TRAIN, QUERIES = texts(6), texts(2, seed=1)


def changed(model):
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[0, 0] += 1


@pytest.mark.parametrize(
    "change",
    [changed, lambda m: m.transformer.wte.weight.data.mul_(2), lambda m: m.double()],
    ids=["in place", "by data", "cast"],
)
def test_weights_that_changed_since_trace_are_refused(change):
    model = gpt2()
    run = trace(model, TRAIN)
    fitted = TracIn().fit(run)
    change(model)
    for ask in (lambda: fitted.explain(QUERIES), lambda: TracIn().fit(run)):
        with pytest.raises(InputError, match="has changed since"):
            ask()


def test_training_may_go_on_where_checkpoints_hold_the_weights():
    model = gpt2()
    kept = copy.deepcopy(model.state_dict())
    fitted = TracIn().fit(trace(model, TRAIN, checkpoints=kept))
    expected = fitted.explain(QUERIES).values
    changed(model)
    np.testing.assert_array_equal(fitted.explain(QUERIES).values, expected)
    live = TracIn().fit(trace(model, TRAIN, checkpoints=model.state_dict()))
    changed(model)
    with pytest.raises(InputError, match="has changed since"):
        live.explain(QUERIES)


def test_a_loss_of_your_own_is_asked_at_the_checkpoint():
    model = gpt2()
    other = {name: value + 0.1 for name, value in model.state_dict().items()}
    fitted = TracIn(projection=None).fit(trace(model, TRAIN, checkpoints=other))
    with fitted.trace(model) as asked:
        autograd.loss_of(model, QUERIES[0]).backward()
    found, expected = asked.explain().values[:, 0], fitted.explain(QUERIES[:1]).values[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_adapters_that_are_off_are_refused_and_not_zero():
    model = lora()
    fitted = TracIn().fit(trace(model, TRAIN))
    with model.disable_adapter(), pytest.raises(InputError, match="adapter"):
        fitted.explain(QUERIES)
    model.merge_adapter()
    with pytest.raises(InputError, match="merged"):
        fitted.explain(QUERIES)


def test_a_question_inside_another_is_refused():
    model = gpt2()
    fitted = TracIn(projection=None).fit(trace(model, TRAIN))
    with fitted.trace(model) as one, fitted.trace(model) as two:
        autograd.loss_of(model, QUERIES[0]).backward()
        with pytest.raises(InputError, match="inside"):
            fitted.explain(QUERIES)
    expected = fitted.explain(QUERIES).values[:, :1]
    for asked in (one, two):
        np.testing.assert_allclose(asked.explain().values, expected, rtol=1e-3, atol=1e-4)


def test_the_model_is_as_before_after_an_interrupt():
    model = gpt2(resid_pdrop=0.1).train()
    model.transformer.h[0].eval()
    model.transformer.wpe.weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    left = [10**9]

    def loss(model, batch):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return causal_lm(model, batch)

    def state():
        hooks = sum(len(module._forward_hooks) for module in model.modules())
        modes = [module.training for module in model.modules()]
        return hooks, modes, [(p.requires_grad, float(p.grad.sum())) for p in model.parameters()]

    before, weights = state(), copy.deepcopy(model.state_dict())
    other = {name: value + 0.1 for name, value in weights.items()}
    run = trace(model, TRAIN, loss=loss, checkpoints=other, batch_size=2)
    assert state() == before
    for ask in (TracIn().fit, lambda run: run.losses(run.queries(QUERIES))):
        left[0] = 0
        with pytest.raises(KeyboardInterrupt):
            ask(run)
        assert state() == before
        assert all(torch.equal(v, weights[name]) for name, v in model.state_dict().items())


def test_inference_mode_is_refused():
    model = gpt2()
    fitted = TracIn().fit(trace(model, TRAIN))
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        fitted.explain(QUERIES)


@pytest.mark.parametrize(
    ("wrap", "inner"),
    [(lambda m: torch.compile(m, backend="eager"), "_orig_mod"), (nn.DataParallel, "model.module")],
    ids=["compiled", "DataParallel"],
)
def test_wrapped_models_are_refused_with_what_to_trace(wrap, inner):
    with pytest.raises(UnsupportedModelError, match=inner):
        trace(wrap(gpt2()), TRAIN, loss=causal_lm)


def test_a_backward_pass_that_comes_too_late_is_refused():
    model = gpt2()
    fitted = TracIn().fit(trace(model, TRAIN))
    with fitted.trace(model):
        late = autograd.loss_of(model, QUERIES[1])
        autograd.loss_of(model, QUERIES[0]).backward()
    with pytest.raises(InputError, match="a pass that is over"):
        late.backward()
