"""A model spread over two processes by `fully_shard` gives the values of a whole one."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from influence.errors import NotYetSupportedError
from llm_influence.checkpoints import Checkpoint
from llm_influence.run import trace
from llm_influence.tracin import TracIn
from tests.llm_influence.architectures import Classifier, Twice
from tests.llm_influence.test_architectures import hand_loss, items

pytestmark = pytest.mark.skipif(os.name != "posix", reason="starts processes with forkserver")

FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["llm_influence.tracin", "torch.distributed.fsdp"])
N_TRAIN = 7  # odd, so that a process has none of a batch's examples now and then


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Classifier(Twice())
    model.head.bias.requires_grad_(False)
    return model


def work(rank: int, folder: Path) -> None:
    """One of two processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    whole = network()
    weights = {name: value.clone() for name, value in whole.state_dict().items()}
    model = network()
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model.get_submodule("encoder.layer"), mesh=mesh)
    fully_shard(model, mesh=mesh)
    run = trace(model, items(N_TRAIN), hand_loss, batch_size=3)
    assert run.fingerprint == trace(whole, items(N_TRAIN), hand_loss, batch_size=3).fingerprint
    assert run.coverage.share == 1.0, run.coverage.uncovered
    fitted = TracIn().fit(run, store=folder / "store", progress=False)
    np.save(folder / f"values-{rank}.npy", fitted.explain(items(3), progress=False).values)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(NotYetSupportedError, match="fully_shard"):
        trace(model, items(N_TRAIN), hand_loss, checkpoints=[Checkpoint(weights)])
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_values_of_one(tmp_path):
    started = [FRESH.Process(target=work, args=(rank, tmp_path)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0, 0], "a process failed, or one waits for a pass the other never makes"
    run = trace(network(), items(N_TRAIN), hand_loss, batch_size=3)
    expected = TracIn().fit(run, progress=False).explain(items(3), progress=False).values
    for rank in range(2):
        found = np.load(tmp_path / f"values-{rank}.npy")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
