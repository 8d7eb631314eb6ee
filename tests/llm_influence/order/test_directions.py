"""Products with the derivatives of a batch's gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_influence.losses import default_loss
from llm_influence.order.derivatives import Derivatives
from llm_influence.order.flat import Flat
from tests.llm_influence.models import llama
from tests.llm_influence.order.recorded import batches, plain_gpt2


class _Cubed(torch.autograd.Function):
    """Cubes, by a formula of ours that torch cannot vectorise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return _CubedBack.apply(ctx.saved_tensors[0], grad[0])


class _CubedBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(x, grad)
        return 3 * x**2 * grad

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> tuple[Tensor, Tensor]:
        x, grad = ctx.saved_tensors
        assert float(along[0].abs().max()) > 0  # a number: torch cannot vectorise this
        return 6 * x * grad * along[0], 3 * x**2 * along[0]


class _Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return _Cubed.apply(self.linear(x))


def flat_of(model: nn.Module) -> Flat:
    named = list(model.named_parameters())
    return Flat(
        tuple(name for name, _ in named),
        tuple(p.shape for _, p in named),
        (0,) * len(named),
        tuple(range(len(named))),
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "own"])
def test_many_directions_at_once_are_each_by_itself(name: str) -> None:
    torch.manual_seed(0)
    model = {"gpt2": plain_gpt2, "llama": llama, "own": _Own}[name]().double()
    own = name == "own"
    loss = (lambda model, x: model(x).mean(dim=1)) if own else default_loss(model)
    batch = torch.randn(3, 4).double() if own else batches(1)[0]
    flat = flat_of(model)
    weights = flat.read(model)
    along = torch.randn(5, flat.n).double()
    with Derivatives(model, loss, flat).linearised(weights, batch) as here:
        bent, slopes = here.products(along)
        single = [here.products(one[None]) for one in along]
    torch.testing.assert_close(bent, torch.cat([one for one, _ in single]))
    torch.testing.assert_close(slopes, torch.cat([one for _, one in single]))
    assert slopes.shape == (5, 3)
    torch.testing.assert_close(slopes.mean(dim=1), along @ here.gradient)
