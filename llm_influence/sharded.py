"""Models whose parameters are spread over processes by torch's `fully_shard` (FSDP2).

All processes of the group run the same passes in lockstep, each on its part of every batch; the
rows are then exchanged, so that every process has all of them. An error in one process leaves the
others waiting: start them with `torchrun`, which then ends all.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influence.errors import NotYetSupportedError


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` was applied to a model or to modules of it.

    Raises:
        NotYetSupportedError: Its parameters are spread in another way, or over a part of the
            processes.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    reshard(model)
    spread = [p for p in model.parameters() if isinstance(p, DTensor)]
    whole = torch.distributed.get_world_size()
    fully = any(isinstance(module, FSDPModule) for module in model.modules())
    other = any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    if other or (spread and not fully) or any(p.device_mesh.shape != (whole,) for p in spread):
        raise NotYetSupportedError(
            "Expected a model that is whole in every process, or one given to fully_shard over a "
            "mesh of one dimension and all processes; its parameters are spread in another way "
            "(FullyShardedDataParallel, tensor parallelism, or a mesh of a part of the processes)."
        )
    return bool(spread)


def reshard(model: nn.Module) -> None:
    """Frees the gathered parameters; those that a model names are then its own part again."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor, gathered from all processes where it is spread over them."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def by_turns(rows: NDArray[np.int64], found: Callable[[NDArray[np.int64]], Tensor]) -> Tensor:
    """What `found` gives for rows, each process working out every n-th of them.

    All call it as often and with as many rows: a process without one repeats the first.
    """
    n, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    parts = [rows[k::n] for k in range(n)]
    own = parts[rank] if len(parts[rank]) == len(parts[0]) else np.append(parts[rank], rows[0])
    mine = found(own).contiguous()
    every = [torch.empty_like(mine) for _ in range(n)]
    torch.distributed.all_gather(every, mine)
    out = mine.new_empty(len(rows), mine.shape[1])
    for k, part in enumerate(parts):
        out[k::n] = every[k][: len(part)]
    return out
