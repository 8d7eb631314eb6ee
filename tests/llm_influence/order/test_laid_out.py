"""The bits of a training do not depend on how its batches lie in memory."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from llm_influence import OptimizerRun, record


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (model(x)[:, 0] - y).square()


def layouts(kind: str, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of 3 that lie in memory in other ways than torch's own."""
    drawn = torch.Generator().manual_seed(seed)
    x, y = torch.randn(40, 9, generator=drawn), torch.randn(40, 1, generator=drawn)[:, 0]
    make: dict[str, Callable[[int], Tensor]] = {
        "whole": lambda i: x[i : i + 3, :4].clone(),
        "rows": lambda i: x.view(-1)[1 + 5 * i : 13 + 5 * i].view(3, 4),
        "columns": lambda i: x[i : i + 3, 1:5],
        "transposed": lambda i: x.T[:4, i : i + 3].T,
        "repeated": lambda i: x[i, :4].expand(3, 4),
    }
    return [(make[kind](i), y[i : i + 3]) for i in range(0, 15, 3)]


@pytest.mark.parametrize("kind", ["whole", "rows", "columns", "transposed", "repeated"])
def test_bits_do_not_depend_on_where_batches_lie(kind: str, tmp_path: Path) -> None:
    for width in (7, 8, 32):
        torch.manual_seed(width)
        model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
        given = copy.deepcopy(model)
        recording = record(model, torch.optim.Adam(model.parameters(), 0.1), squares)
        for batch in layouts(kind, width):
            recording.step(batch)
        run = recording.run
        assert torch.equal(run.train(), run.final)
        folder = tmp_path / str(width)
        run.save(folder)
        loaded = OptimizerRun.load(folder, given, squares)
        assert loaded.fingerprint == run.fingerprint
        assert torch.equal(loaded.train(), run.final), "matmuls round by alignment and strides"
