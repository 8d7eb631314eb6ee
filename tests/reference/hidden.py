"""Hidden states of one text at a time, without padding, and similarities of plain vectors."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


def states(model: nn.Module, ids: Sequence[int], layer: int) -> np.ndarray:
    """Hidden states of a text's tokens by a Hugging Face model, shape (n_tokens, width)."""
    model.eval()
    with torch.no_grad():
        found = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True)
    return found.hidden_states[layer][0].double().numpy()


def similarity(metric: str, a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors."""
    if metric == "dot":
        return float(sum(x * y for x, y in zip(a, b, strict=True)))
    if metric == "cosine":
        return float(a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b)))
    return float(1 / (1 + np.sqrt(((a - b) ** 2).sum())))
