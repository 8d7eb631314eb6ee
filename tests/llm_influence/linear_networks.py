"""Linear models as networks: their curvature and their optimum are known exactly."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """Outputs W x + b of features x."""

    def __init__(self, n_in: int, n_out: int, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(n_in, n_out, bias=bias)
        self.double()

    def forward(self, features: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(features))


def classes(n: int, n_in: int = 4, n_classes: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    """Features and a class that depends on them."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(7).normal(size=(n_in, n_classes))
    features = rng.normal(size=(n, n_in))
    labels = (features @ truth + rng.gumbel(size=(n, n_classes))).argmax(1)
    return [
        {"features": torch.from_numpy(x), "labels": int(y)}
        for x, y in zip(features, labels, strict=True)
    ]


def numbers(n: int, n_in: int = 4, seed: int = 0) -> list[dict[str, Any]]:
    """Features of different scales and a number that depends on them, with noise."""
    rng = np.random.default_rng(seed)
    scales = np.array([2.0, 1.0, 0.5, 0.1, 0.05])[:n_in]
    features = rng.normal(size=(n, n_in)) * scales
    labels = features @ np.ones(n_in) + rng.normal(size=n)
    return [
        {"features": torch.from_numpy(x), "labels": torch.tensor([y])}
        for x, y in zip(features, labels, strict=True)
    ]
