"""Gradients, Hessian-vector products and per-example slopes against torch.func and differences."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from llm_influence import OptimizerRun
from tests.llm_influence.models import VOCABULARY, llama
from tests.llm_influence.order.recorded import plain_gpt2, recorded
from tests.llm_influence.order.tiny import adapted, net, pairs, squared_errors


def small_gpt2() -> nn.Module:
    """Its head is the embedding."""
    model = plain_gpt2(n_layer=1).double()
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": small_gpt2,
    "llama": lambda: llama(num_hidden_layers=1).double(),
}


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest) -> OptimizerRun:
    return recorded(n_batches=2, model=MODELS[request.param]())


def directions(n: int, size: int) -> Tensor:
    drawn = torch.Generator().manual_seed(5)
    return torch.randn(n, size, generator=drawn, dtype=torch.float64)


class OneByOne:
    """Derivatives of each example's loss by itself, of eager attention."""

    def __init__(self, run: OptimizerRun, batch: dict[str, Tensor]) -> None:
        self.model = copy.deepcopy(run.model)
        self.model.set_attn_implementation("eager")  # pyright: ignore[reportCallIssue]
        self.run, self.batch = run, batch

    def losses(self, weights: Tensor) -> list[Tensor]:
        named = dict(zip(self.run.flat.names, self.run.flat.split(weights), strict=True))
        found = []
        for ids in self.batch["input_ids"]:
            out = torch.func.functional_call(self.model, named, (), {"input_ids": ids[None]})
            logs = out.logits[0, :-1].log_softmax(-1)
            found.append(-logs[torch.arange(len(ids) - 1), ids[1:]].mean())
        return found

    def gradients(self, weights: Tensor) -> Tensor:
        free = weights.clone().requires_grad_()
        found = [torch.autograd.grad(loss, free)[0] for loss in self.losses(free)]
        return torch.stack(found)

    def bent(self, weights: Tensor, shares: Tensor, along: Tensor) -> Tensor:
        """Hessian of the weighted loss times a direction."""
        free = weights.clone().requires_grad_()
        total = (shares * torch.stack(self.losses(free))).sum()
        (gradient,) = torch.autograd.grad(total, free, create_graph=True)
        return torch.autograd.grad(gradient @ along, free)[0]


# The Llama's norms round to float32 whatever its weights are.
near = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)


def test_gradients_of_a_batch_are_sums_over_its_examples(run: OptimizerRun) -> None:
    derivatives, batch = run.derivatives(), run.batch(0)
    shares = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    oracle = OneByOne(run, batch)
    each = oracle.gradients(run.final)
    near(derivatives.gradient(run.final, batch), each.mean(dim=0))
    found = derivatives.gradient(run.final, batch, shares)
    near(found, shares @ each)
    with torch.no_grad():
        losses = torch.stack(oracle.losses(run.final))
    near(derivatives.losses(run.final, batch), losses)


def test_products_are_those_of_the_sum_over_examples(run: OptimizerRun) -> None:
    batch, along = run.batch(1), directions(2, run.flat.n)
    shares = torch.tensor([0.5, 0.2, 2.0], dtype=torch.float64)
    oracle = OneByOne(run, batch)
    with run.derivatives().linearised(run.final, batch, shares) as here:
        bent, slopes = here.products(along)
        gradient = here.gradient
    each = oracle.gradients(run.final)
    near(gradient, shares @ each)
    near(slopes, along @ each.T)
    wanted = torch.stack([oracle.bent(run.final, shares, one) for one in along])
    torch.testing.assert_close(bent, wanted, rtol=1e-4, atol=1e-5)


def test_a_tied_head_adds_to_the_gradient_of_the_embedding() -> None:
    run = recorded(n_batches=2, model=small_gpt2())
    assert "lm_head.weight" not in run.flat.names and "transformer.wte.weight" in run.flat.names
    batch, step = run.batch(0), 1e-5
    never = torch.tensor([i for i in range(3, VOCABULARY) if i not in batch["input_ids"]])
    gradient = run.flat.split(run.derivatives().gradient(run.final, batch))
    rows = gradient[run.flat.names.index("transformer.wte.weight")][never]
    assert (rows.abs().sum(dim=1) > 0).all(), "words that are not read are still predicted"
    (along,) = directions(1, run.flat.n)
    ahead = run.derivatives().losses(run.final + step * along, batch).mean()
    behind = run.derivatives().losses(run.final - step * along, batch).mean()
    found = run.derivatives().gradient(run.final, batch) @ along
    torch.testing.assert_close(found, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


def test_products_equal_those_of_torch_func() -> None:
    run, (batch, _) = adapted(), pairs(2, seed=4)
    model = net()

    def mean_loss(weights: Tensor) -> Tensor:
        named = dict(zip(run.flat.names, run.flat.split(weights), strict=True))
        out = torch.func.functional_call(model, named, (batch[0],))
        return ((out - batch[1]) ** 2).sum(dim=1).mean()

    along = directions(3, run.flat.n)
    hessian = torch.func.hessian(mean_loss)(run.final)
    with run.derivatives().linearised(run.final, batch) as here:
        bent, _ = here.products(along)
        torch.testing.assert_close(here.gradient, torch.func.grad(mean_loss)(run.final))
    torch.testing.assert_close(bent, along @ torch.as_tensor(hessian))


def test_the_model_of_the_run_is_left_alone() -> None:
    run = adapted()
    before = run.flat.read(run.model)
    run.derivatives().gradient(run.final + 1, pairs(1)[0])
    assert torch.equal(run.flat.read(run.model), before)
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_frozen_parameters_are_no_part_of_the_vector() -> None:
    model = small_gpt2()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name)
    run = recorded(n_batches=2, model=model)
    assert all("mlp" in name for name in run.flat.names)
    assert run.derivatives().gradient(run.final, run.batch(0)).shape == (run.flat.n,)
    assert run.final.numel() < VOCABULARY * 24 + run.flat.n


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature() -> None:
    run = adapted(groups=[{"lr": 0.0}, {}])

    def linear(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0]).sum(dim=1) * 0 + sum(p.sum() for p in model.parameters())

    from llm_influence.order.derivatives import Derivatives

    derivatives = Derivatives(run.model, linear, run.flat)
    with derivatives.linearised(run.final, pairs(1)[0]) as here:
        bent, _ = here.products(directions(2, run.flat.n))
    assert not bent.any()
    assert squared_errors(run.model, pairs(1)[0]).shape == (3,)
