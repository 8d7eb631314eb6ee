"""Small networks made on the spot, and examples for them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

VOCABULARY = 41


def gpt2(**options: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": VOCABULARY}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, "bos_token_id": 0, "eos_token_id": 0, **options}))


def llama(**options: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY,
        "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **options}))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
            vocab_size=VOCABULARY, max_position_embeddings=32, num_labels=3,
            attention_probs_dropout_prob=0.0,  # transformers 4 keeps it out of nn.Dropout
        )
    )  # fmt: skip


def lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapter = LoraConfig(
        r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, init_lora_weights=False
    )
    return get_peft_model(gpt2(), adapter)


CAUSAL: dict[str, Callable[[], nn.Module]] = {"gpt2": gpt2, "llama": llama, "lora": lora}


def texts(n: int, seed: int = 0, shortest: int = 3, longest: int = 12) -> list[dict[str, Any]]:
    """Token sequences of different lengths, every third with a prompt that is no target."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        ids = rng.integers(3, VOCABULARY, rng.integers(shortest, longest + 1)).tolist()
        labels = [-100, -100, *ids[2:]] if i % 3 == 2 else list(ids)
        examples.append({"input_ids": ids, "labels": labels})
    return examples


def labelled(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Token sequences with a class each."""
    rng = np.random.default_rng(seed)
    return [
        {**text, "labels": int(rng.integers(3))}
        for text in ({"input_ids": t["input_ids"]} for t in texts(n, seed))
    ]


def trained(model: nn.Module, loss: Callable[[nn.Module, int], Tensor], n: int, steps: int) -> None:
    """A few steps of Adam on one example at a time."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    model.eval()
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, step % n).backward()
        optimizer.step()
