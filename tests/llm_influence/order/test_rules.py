"""Update rules against torch's optimizers, and their derivatives against autograd."""

from typing import Any

import pytest
import torch
from torch import Tensor

from influence.errors import UnsupportedModelError
from llm_influence import OptimizerRun, record
from llm_influence.order.rules import back_through_clip, check_optimizer, clip_scale
from tests.llm_influence.order.tiny import adapted, net, squared_errors

ADAM, ADAMW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (ADAM, {"betas": (0.8, 0.95)}),
    "adam with decay": (ADAM, {"weight_decay": 0.3}),
    "adamw": (ADAMW, {"weight_decay": 0.3, "eps": 1e-3}),
    "sgd": (SGD, {"weight_decay": 0.1}),
    "momentum": (SGD, {"momentum": 0.9}),
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "dampening": (SGD, {"momentum": 0.9, "dampening": 0.4}),
    "adam of groups": (
        ADAM,
        {"groups": [{"lr": 0.03, "betas": (0.5, 0.9)}, {"weight_decay": 0.2, "eps": 1e-2}]},
    ),
    "adamw of groups": (ADAMW, {"groups": [{"lr": 0.03, "weight_decay": 0.5}, {}]}),
    "sgd of groups": (
        SGD,
        {
            "groups": [
                {"momentum": 0.9, "dampening": 0.3},
                {"momentum": 0.5, "nesterov": True, "lr": 0.05},
            ]
        },
    ),
    "momentum of one group": (SGD, {"groups": [{"momentum": 0.9}, {}]}),
    "dampening without momentum": (SGD, {"dampening": 0.5, "groups": [{"momentum": 0.9}, {}]}),
    "decoupled decay of one group": (
        ADAM,
        {"weight_decay": 0.3, "groups": [{}, {"decoupled_weight_decay": True}]},
    ),
}


def followed(run: OptimizerRun) -> list[Tensor]:
    """The weights along the run, by our formulas."""
    rule, derivatives = run.rule(), run.derivatives()
    weights, moments = run.begin()
    path = [weights]
    for step, parts in enumerate(run.parts()):
        total = sum(derivatives.gradient(weights, part.batch) for part in parts)
        mean = torch.as_tensor(total) / len(parts)
        mean = mean * clip_scale(mean, run.recipe.max_grad_norm)
        weights, moments = rule.update(weights, moments, mean, mean**2, step)
        path.append(weights)
    return path


@pytest.mark.parametrize("clipped", [None, 1.0])
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_rule_takes_the_steps_of_the_optimizer(
    optimizer: str, before: int, clipped: float | None
) -> None:
    make, options = OPTIMIZERS[optimizer]
    run = adapted(
        make, before=before, decaying=True,
        record_options={"max_grad_norm": clipped, "accumulate": 2}, order=[0, 1, 2, 3, 1, 2],
        **options,
    )  # fmt: skip
    found, real = torch.stack(followed(run)), torch.stack(list(run.path()))
    torch.testing.assert_close(found, real, rtol=1e-10, atol=1e-12)
    assert (real[1:] != real[:-1]).any(dim=1).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_partials_are_the_derivatives_of_a_step(optimizer: str, smoothing: float) -> None:
    make, options = OPTIMIZERS[optimizer]
    run = adapted(make, before=2, **options)
    rule = run.rule(smoothing)
    drawn = torch.Generator().manual_seed(0)
    n_inputs = 3 + len(run.begin()[1])
    inputs = torch.rand(n_inputs, run.flat.n, generator=drawn, dtype=torch.float64) + 0.1

    def stacked(given: Tensor) -> Tensor:
        weights, *moments, mean, square = given
        moved, carried = rule.update(weights, tuple(moments), mean, square, 1)
        return torch.stack([moved, *carried])

    weights, *moments, mean, square = inputs
    partials = rule.partials(weights, tuple(moments), mean, square, 1)
    step = 1e-5
    for j in range(n_inputs):
        moved = torch.zeros_like(inputs)
        moved[j] = step
        slopes = (stacked(inputs + moved) - stacked(inputs - moved)) / (2 * step)
        for i, slope in enumerate(slopes):
            part = partials.table[i][j]
            found = torch.zeros_like(slope) if part is None else part
            torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-7)


def test_adjoints_go_back_through_every_output() -> None:
    run = adapted(before=2)
    drawn = torch.Generator().manual_seed(1)
    inputs = torch.rand(5, run.flat.n, generator=drawn, dtype=torch.float64).requires_grad_()
    adjoints = torch.randn(3, 2, run.flat.n, generator=drawn, dtype=torch.float64)
    weights, m, v, mean, square = inputs
    moved, carried = run.rule().update(weights, (m, v), mean, square, 1)
    outputs = torch.stack([moved, *carried])
    wanted = [
        torch.autograd.grad(outputs, inputs, adjoint, retain_graph=True)[0]
        for adjoint in adjoints.unbind(dim=1)
    ]
    partials = run.rule().partials(weights, (m, v), mean, square, 1)
    found = torch.stack(partials.back(tuple(adjoints)), dim=1)
    torch.testing.assert_close(found, torch.stack(wanted))


def test_a_parameter_without_any_gradient_has_no_derivative() -> None:
    run = adapted()
    weights, moments = run.begin()
    still = torch.zeros_like(weights)
    table = run.rule().partials(weights, moments, still, still, 0).table
    assert all(torch.isfinite(part).all() for row in table for part in row if part is not None)


@pytest.mark.parametrize("most", [None, 0.5, 1e3])
def test_back_through_clip_is_its_derivative(most: float | None) -> None:
    drawn = torch.Generator().manual_seed(0)
    gradient = torch.randn(7, generator=drawn, dtype=torch.float64).requires_grad_()
    adjoints = torch.randn(2, 7, generator=drawn, dtype=torch.float64)
    clipped = gradient * clip_scale(gradient, most)
    wanted = [torch.autograd.grad(clipped, gradient, a, retain_graph=True)[0] for a in adjoints]
    found = back_through_clip(gradient.detach(), adjoints, most)
    torch.testing.assert_close(found, torch.stack(wanted))


def test_clipping_is_that_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    parameter.grad = torch.arange(5, dtype=torch.float64)
    gradient = parameter.grad.clone()
    torch.nn.utils.clip_grad_norm_([parameter], 2.0)
    assert torch.equal(gradient * clip_scale(gradient, 2.0), parameter.grad)


class Renamed(torch.optim.Adam):
    """Somebody's optimizer."""


def test_unknown_optimizers_are_refused_by_name() -> None:
    parameters = list(net().parameters())
    with pytest.raises(UnsupportedModelError, match=r"torch.optim.*Adagrad"):
        check_optimizer(torch.optim.Adagrad(parameters))
    with pytest.raises(UnsupportedModelError, match="Renamed"):
        check_optimizer(Renamed(parameters))
    with pytest.raises(UnsupportedModelError, match="amsgrad=False, got True"):
        record(net(), torch.optim.Adam(parameters, amsgrad=True), squared_errors)
    with pytest.raises(UnsupportedModelError, match="maximize"):
        check_optimizer(torch.optim.SGD(parameters, lr=1.0, maximize=True))
