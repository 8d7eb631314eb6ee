"""Tiny language models, really trained: by torch's AdamW, and by Hugging Face's Trainer."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

N_TRAIN = 12


def gpt2(seed: int = 0, n_layer: int = 2) -> GPT2LMHeadModel:
    """A GPT-2 whose head is tied to its embedding."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=20, n_positions=8, n_embd=8, n_layer=n_layer, n_head=2,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def lora(seed: int = 0, base_seed: int = 0) -> nn.Module:
    """The same with LoRA on the attention; neither A nor B is zero."""
    base = gpt2(base_seed)
    torch.manual_seed(seed)
    settings = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    model = get_peft_model(base, settings)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.normal_()
    return model


def examples() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(0, 20, (N_TRAIN, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in ids]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, n_steps: int = 3) -> None:
    rows = torch.stack([example["input_ids"] for example in examples()])
    for _ in range(n_steps):
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def run_trainer(model: nn.Module, folder: Path, callbacks: list[TrainerCallback]) -> None:
    """Four steps with a checkpoint after the second and the fourth."""
    arguments = TrainingArguments(
        str(folder), max_steps=4, save_steps=2, logging_steps=1, learning_rate=1e-2, seed=0,
        weight_decay=0.1, per_device_train_batch_size=4, use_cpu=True, report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    rows: Any = examples()
    Trainer(model, arguments, train_dataset=rows, callbacks=callbacks).train()


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def assert_same(model: nn.Module, expected: dict[str, torch.Tensor], bug: str) -> None:
    """Bit for bit."""
    found = model.state_dict()
    assert set(found) == set(expected)
    wrong = [name for name, value in found.items() if not torch.equal(value, expected[name])]
    assert not wrong, f"{bug}: {wrong[:3]}"
