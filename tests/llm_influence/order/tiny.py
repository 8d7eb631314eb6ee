"""Recorded trainings in float64 of a network of 30 parameters."""

from typing import Any

import torch
from torch import Tensor, nn

from llm_influence import OptimizerRun, record

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """Two layers whose parameters can be put into two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().double()


def squared_errors(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return ((model(x) - y) ** 2).sum(dim=1)


def pairs(n: int, sizes: int | list[int] = 3, seed: int = 0) -> list[Batch]:
    """Batches of so many examples."""
    drawn = torch.Generator().manual_seed(seed)
    each = [sizes] * n if isinstance(sizes, int) else sizes
    return [
        (
            torch.randn(k, 3, generator=drawn, dtype=torch.float64),
            2 * torch.randn(k, 2, generator=drawn, dtype=torch.float64),
        )
        for k in each
    ]


def adapted(
    make: type[torch.optim.Optimizer] = torch.optim.Adam,
    batches: list[Batch] | None = None,
    order: list[int] | None = None,
    before: int = 0,
    groups: list[dict[str, Any]] | None = None,
    rate: float = 1e-2,
    decaying: bool = False,
    record_options: dict[str, Any] | None = None,
    **options: Any,
) -> OptimizerRun:
    """A run of `net`.

    Args:
        make: The optimizer's class.
        batches: Of the run; 4 by default.
        order: Batch of every place; each once by default.
        before: Steps taken before recording.
        groups: Options of two groups, one for each layer.
        rate: Learning rate.
        decaying: The rate falls by a tenth at each step.
        record_options: Of `record`.
        **options: Of the optimizer.
    """
    model = net()
    layers = (model.first, model.second)
    listed = [
        {"params": list(layer.parameters()), **own}
        for layer, own in zip(layers, groups or [{}, {}], strict=True)
    ]
    optimizer = make(listed, lr=rate, **options)  # pyright: ignore[reportCallIssue]
    for batch in pairs(before, seed=9):
        optimizer.zero_grad()
        squared_errors(model, batch).mean().backward()
        optimizer.step()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) if decaying else None
    recording = record(
        model, optimizer, squared_errors, scheduler=scheduler, **(record_options or {})
    )
    taken = pairs(4) if batches is None else batches
    for i in range(len(taken)) if order is None else order:
        recording.step(taken[i])
    return recording.run
