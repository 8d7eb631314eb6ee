"""Which of several processes this one is, where `torchrun` started them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from influence.errors import InputError


@dataclass(frozen=True)
class Rank:
    """This process among those of one `torchrun`.

    Attributes:
        number: From 0; the first one speaks for all.
        device: Where its passes run.
    """

    number: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.number == 0


@contextmanager
def joined(device: str | None) -> Iterator[Rank]:
    """Joins the processes that `torchrun` started, by RANK and WORLD_SIZE; alone without them.

    They talk through NCCL where they run on CUDA, each on the device of its LOCAL_RANK, else
    through Gloo.

    Args:
        device: Where passes run, as `device_of` takes it.
    """
    wanted = device_of(device)
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield Rank(0, wanted)
        return
    on_cuda = wanted.type == "cuda"
    if on_cuda:
        wanted = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(wanted)
    torch.distributed.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield Rank(torch.distributed.get_rank(), wanted)
    finally:
        torch.distributed.destroy_process_group()


def device_of(device: str | None) -> torch.device:
    """The device of this name. None: CUDA where there is one, else the CPU.

    Raises:
        InputError: There is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
        torch.zeros(1, device=wanted).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"--device {device} cannot be used here ({str(error).splitlines()[0]}); name another, "
            "e.g. cpu."
        ) from error
    return wanted
