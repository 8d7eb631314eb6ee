"""Influence of training examples on language models and other PyTorch networks.

    run = trace(model, dataset)
    TracIn().fit(run).explain(queries).proponents(k=10)

Names are imported on first use.
"""

from typing import TYPE_CHECKING

from influence.lazy import exports

__all__: list[str] = []

if TYPE_CHECKING:
    pass
else:
    __getattr__, __dir__ = exports(__name__, {})
