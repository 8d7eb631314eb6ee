"""Small random networks of many architectures, hidden size 16."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.llm_influence.models import VOCABULARY

LLAMA_LIKE = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": VOCABULARY, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**LLAMA_LIKE, "num_key_value_heads": 1}

# Prefix of the classes, ending of the model's, and sizes.
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "OPT": ("ForCausalLM", {**LLAMA_LIKE, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    "Qwen2": ("ForCausalLM", GROUPED),
    "Mistral": ("ForCausalLM", GROUPED),
    "Gemma": ("ForCausalLM", {**GROUPED, "head_dim": 8}),
    "Gemma3Text": ("ForCausalLM", {**GROUPED, "head_dim": 8}),
    "Phi": ("ForCausalLM", LLAMA_LIKE),
    "GPTNeoX": ("ForCausalLM", LLAMA_LIKE),
    "Bloom": ("ForCausalLM", {**LLAMA_LIKE, "n_layer": 2, "n_head": 2}),
    "Mixtral": (
        "ForCausalLM",
        {
            **GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2,
            "experts_implementation": "eager",
        },
    ),
    "DistilBert": (
        "ForSequenceClassification",
        {
            "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": VOCABULARY,
            "max_position_embeddings": 32, "num_labels": 3,
        },
    ),
    "Roberta": (
        "ForSequenceClassification",
        {**LLAMA_LIKE, "max_position_embeddings": 40, "num_labels": 3, "pad_token_id": 1},
    ),
    "ModernBert": (
        "ForSequenceClassification",
        {**LLAMA_LIKE, "num_labels": 3, "cls_token_id": 1, "sep_token_id": 2},
    ),
}  # fmt: skip


def made(name: str) -> nn.Module:
    """A random model in float64, one of `SIZES`."""
    import transformers

    ending, sizes = SIZES[name]
    prefix = name.removesuffix("Text")
    torch.manual_seed(0)
    settings = getattr(transformers, f"{name}Config")(**sizes)
    return getattr(transformers, f"{prefix}{ending}")(settings).double()


class Classifier(nn.Module):
    """An encoder, the mean of what it gives, and a linear head; `forward` gives class scores."""

    def __init__(self, encoder: Callable[..., torch.Tensor], width: int = 16) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(ids).mean(1))


class Table(nn.Module):
    """An embedding with a plain parameter for the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.positions = nn.Parameter(torch.randn(8, 16))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.tokens(ids) + self.positions[: ids.shape[1]]


class Twice(nn.Module):
    """A layer used twice in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.layer = nn.Linear(16, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.tanh(self.layer(self.tokens(ids))))


class InPlace(nn.Module):
    """Outputs of layers that are changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.inner = nn.Sequential(nn.Linear(16, 16), nn.ReLU(inplace=True), nn.Linear(16, 16))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found = self.tokens(ids)
        found += 0.5
        return self.inner(found).mul_(2)


class Tied(nn.Module):
    """Two layers of one weight, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(self.tokens(ids))))


class Routed(nn.Module):
    """Experts that see the tokens they are chosen for, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.gate = nn.Linear(16, 2)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found = self.tokens(ids)
        flat = found.reshape(-1, 16)
        chosen = self.gate(flat)
        out = flat.clone()
        for k, expert in enumerate(self.experts):
            at = torch.nonzero(chosen.argmax(1) == k)[:, 0]
            out[at] = expert(flat[at]) * chosen[at, k : k + 1].sigmoid()
        return out.reshape(found.shape)


class Skipping(nn.Module):
    """A layer that sees all tokens but those of number 0."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.layer = nn.Linear(16, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found = self.tokens(ids)
        flat = found.reshape(-1, 16).clone()
        seen = ids.flatten() != 0
        flat[seen] = self.layer(flat[seen])
        return flat.reshape(found.shape)


class Normalised(nn.Module):
    """Batch normalisation, with running means or without."""

    def __init__(self, running: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.norm = nn.BatchNorm1d(16, track_running_stats=running)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.norm(self.tokens(ids).transpose(1, 2)).transpose(1, 2)


def transformer() -> nn.Module:
    """torch's own encoder, which has a fast path that calls no layer."""
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    return nn.Sequential(nn.Embedding(VOCABULARY, 16), nn.TransformerEncoder(layer, 1))


def t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    encoder = T5EncoderModel(
        T5Config(
            d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=VOCABULARY,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = encoder

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.inner(input_ids=ids).last_hidden_state

    return Encoder()
