"""`OfNetworks`: what every estimator of a network has in common."""

from typing import Any

from torch import nn

from llm_influence.run import CheckpointRun, trace


class OfNetworks:
    """Mixed into an estimator, so that `fit` takes a run or what `trace` takes."""

    @staticmethod
    def _trace(model: nn.Module, *data: Any) -> CheckpointRun:
        return trace(model, *data)
