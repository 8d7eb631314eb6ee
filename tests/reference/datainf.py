"""DataInf as a mean of explicit inverses, one block and one example at a time.

(H + lambda)^-1 is replaced by 1/n sum_k (g_k g_k^T + lambda I)^-1, inverted here as matrices.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Named = Mapping[str, Tensor]  # the gradient of one example, by parameter


def values(
    train: Sequence[Named],
    queries: Sequence[Named],
    blocks: Sequence[Sequence[str]],
    damping: float,
) -> Tensor:
    """1/n g_q^T B g_i summed over blocks, shape (n_train, n_queries).

    Args:
        train: Gradient of each training example.
        queries: Gradient of each query.
        blocks: Names of the parameters of each block.
        damping: lambda over the mean squared gradient entry of the block.
    """
    n = len(train)
    total = torch.zeros(n, len(queries), dtype=torch.float64)
    for names in blocks:
        G = _stacked(train, names)  # (n, d)
        Q = _stacked(queries, names)
        ridge = damping * G.square().mean() * torch.eye(G.shape[1], dtype=torch.float64)
        B = sum(torch.linalg.inv(torch.outer(g, g) + ridge) for g in G) / n
        total += G @ B @ Q.T / n
    return total


def _stacked(examples: Sequence[Named], names: Sequence[str]) -> Tensor:
    rows = [torch.cat([one[name].flatten() for name in names]) for one in examples]
    return torch.stack(rows).double()
