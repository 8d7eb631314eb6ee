"""bf16 autocast and activation checkpointing: the same rows, in less memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm_influence.gradients import Gradients
from llm_influence.projection import Identity
from llm_influence.rows import RowMap
from llm_influence.run import trace
from tests.llm_influence.architectures import Classifier, made
from tests.llm_influence.models import VOCABULARY, gpt2, llama, lora, texts
from tests.llm_influence.test_architectures import hand_loss, items

MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": gpt2,
    "llama": llama,
    "lora": lora,
    "OPT with dropout": lambda: made("OPT").float(),
}


@contextmanager
def bytes_saved() -> Iterator[list[int]]:
    """Sizes of the tensors that autograd keeps for the backward pass, each storage once.

    Tensors that a checkpoint keeps itself (its inputs) are not seen.
    """
    sizes: dict[int, int] = {}
    total = [0]

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        total[0] = sum(sizes.values())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        yield total


def rows_of(run: Any) -> Tensor:
    return RowMap(run, Identity()).rows(0, run.examples)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_give_the_same_rows(name, reentrant):
    model, examples = MODELS[name](), texts(5)
    plain = rows_of(trace(model, examples, batch_size=3))
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    calls = counted(model)
    run = trace(model, examples, batch_size=5)
    calls.clear()
    with_checkpoints = rows_of(run)
    assert run.coverage.share == 1.0, run.coverage.uncovered
    assert max(calls.values()) == 2, "no layer was recomputed: checkpointing was off"
    torch.testing.assert_close(with_checkpoints, plain, rtol=1e-5, atol=1e-5)
    assert all(module.training for module in model.modules())


def counted(model: nn.Module) -> dict[str, int]:
    """How often each module is called."""
    calls: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(note(name))
    return calls


def test_checkpointing_saves_memory_under_the_hooks():
    sizes = []
    for on in (False, True):
        model: Any = gpt2(n_layer=6, n_embd=32, n_head=2)
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        run = trace(model, texts(8, shortest=12), batch_size=8)
        with bytes_saved() as total:
            rows_of(run)
        sizes.append(total[0])
    assert sizes[1] < 0.5 * sizes[0], f"bytes saved without and with checkpoints: {sizes}"


class Checkpointed(nn.Module):
    """torch's own checkpoint in a plain module."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.inner = nn.Sequential(nn.Linear(16, 16), nn.ReLU(inplace=True), nn.Linear(16, 16))
        self.reentrant = reentrant

    def forward(self, ids: Tensor) -> Tensor:
        found = self.tokens(ids)
        if self.reentrant is None:
            return self.inner(found)
        return checkpoint(self.inner, found, use_reentrant=self.reentrant)


def test_checkpoint_in_a_plain_module():
    rows = []
    for reentrant in (None, False, True):
        torch.manual_seed(0)
        run = trace(Classifier(Checkpointed(reentrant)), items(), hand_loss, batch_size=3)
        assert run.coverage.share == 1.0, run.coverage.uncovered
        rows.append(rows_of(run))
    torch.testing.assert_close(rows[1], rows[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rows[2], rows[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("checkpoints", [False, True])
def test_autocast_gives_nearly_the_same_rows(name, checkpoints):
    model, examples = MODELS[name](), texts(5)
    plain = rows_of(trace(model, examples, batch_size=3))
    if checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    run = trace(model, examples, batch_size=3, dtype="bfloat16")
    assert run.coverage.share == 1.0, run.coverage.uncovered
    rows = rows_of(run)
    assert rows.dtype == torch.float32
    assert torch.cosine_similarity(rows, plain).min() > 0.99


def test_hooks_fire_once():
    model: Any = llama()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    run = trace(model, texts(4))
    with Gradients(model, run.coverage.layers, lambda _, sides: sides, None) as gradients:
        _, found = gradients.sides(run.loss, run.examples.batch([0, 1, 2, 3]), 4)
    assert set(found) == set(run.coverage.blocks)
    assert all(len(parts) == 1 for parts in found.values())
