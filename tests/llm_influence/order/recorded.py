"""Recorded trainings of tiny networks."""

from typing import Any

import numpy as np
import torch
from torch import nn

from llm_influence import OptimizerRun, record
from tests.llm_influence.models import VOCABULARY, gpt2

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adam-l2": (torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "sgd": (torch.optim.SGD, {}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "damped": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01}),
}


def plain_gpt2(**options: Any) -> nn.Module:
    """A GPT-2 without dropout, whose training can be repeated."""
    return gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **options)


def batches(n: int, size: int = 3, length: int = 8, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    drawn = [torch.from_numpy(rng.integers(3, VOCABULARY, (size, length))) for _ in range(n)]
    return [{"input_ids": ids, "labels": ids.clone()} for ids in drawn]


def recorded(
    optimizer: str = "adam",
    n_batches: int = 4,
    epochs: int = 1,
    rate: float = 1e-2,
    model: nn.Module | None = None,
    taken: list[Any] | None = None,
    **options: Any,
) -> OptimizerRun:
    """A run of a small GPT-2; `options` are those of `record`."""
    model = plain_gpt2() if model is None else model
    make, settings = OPTIMIZERS[optimizer]
    moved = make(model.parameters(), **{"lr": rate, **settings})
    recording = record(model, moved, **options)
    for _ in range(epochs):
        for batch in batches(n_batches) if taken is None else taken:
            recording.step(batch)
    return recording.run
