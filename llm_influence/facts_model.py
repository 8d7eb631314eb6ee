"""A language model that learns made-up facts in half a minute, and answers questions about them."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influence.progress import track
from llm_influence.checkpoints import Checkpoint

Example = dict[str, list[int]]

IGNORED = -100  # label of a token that is not learned
N_HEADS = 4
BATCH_SIZE = 32
PEAK_RATE, WARM_UP = 3e-3, 50  # reached after so many steps; falls to a tenth of it
WEIGHT_DECAY = 1.0  # with less, documents are learned by heart in ways that questions do not reach
BETAS = (0.9, 0.99)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained language model and what its training left.

    Attributes:
        model: GPT-2 of `transformers`, in evaluation mode.
        tokenizer: Its tokenizer.
        examples: What it was trained on: the documents in their order, then the practice. Token
            ids as "input_ids", and "labels", where a prompt is not learned.
        checkpoints: After a quarter, half, three quarters and all of the steps, with the rates of
            the steps that led there and the optimizer's state.
    """

    model: nn.Module
    tokenizer: Any
    examples: list[Example]
    checkpoints: list[Checkpoint]


def train(
    tokenizer: Any,
    documents: Sequence[str],
    practice: Sequence[Mapping[str, str]],
    *,
    seed: int = 0,
    width: int = 96,
    n_layers: int = 2,
    n_steps: int = 1000,
    progress: bool = False,
) -> Trained:
    """Trains a small GPT-2 on documents and on questions with answers.

    AdamW on random batches of both. From documents the model learns facts, from the practice what
    a question asks for; it then answers questions that it has not seen about the documents. A
    step's loss is the mean over its batch of each example's mean over target tokens.

    Args:
        tokenizer: Tokenizer with an end-of-text token; it begins and ends every example.
        documents: Texts.
        practice: Pairs of "prompt" and "completion"; only the completion is learned.
        seed: Seed of the weights and of the batches.
        width: Size of the hidden state, a multiple of 4.
        n_layers: Number of blocks.
        n_steps: Number of steps, at least 4.
        progress: Show a bar.
    """
    examples = [encoded(tokenizer, text) for text in documents]
    examples += [encoded(tokenizer, pair["prompt"], pair["completion"]) for pair in practice]
    model = _untrained(tokenizer, examples, seed, width, n_layers)
    optimizer = torch.optim.AdamW(
        model.parameters(), PEAK_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY
    )
    checkpoints: list[Checkpoint] = []
    moved = 0.0  # sum of the learning rates since the last checkpoint
    taken = track(_batches(len(examples), n_steps, seed), "training", n_steps, progress)
    for step, batch in enumerate(taken, start=1):
        rate = PEAK_RATE * min(1.0, step / WARM_UP) * (1 - 0.9 * (step - 1) / n_steps)
        moved += rate
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        losses(model, [examples[i] for i in batch]).mean().backward()
        optimizer.step()
        if step in {round(n_steps * quarter / 4) for quarter in (1, 2, 3, 4)}:
            weights = {k: v.clone() for k, v in model.state_dict().items()}
            adam = copy.deepcopy(optimizer.state_dict())
            checkpoints.append(Checkpoint(weights, moved / len(examples), adam, f"step {step}"))
            moved = 0.0
    model.eval()
    return Trained(model, tokenizer, examples, checkpoints)


def encoded(tokenizer: Any, text: str, completion: str | None = None) -> Example:
    """Ids and labels of a text, between two end-of-text tokens.

    Args:
        tokenizer: The tokenizer.
        text: A document, or a prompt.
        completion: What follows a prompt; then only it, and the end, are learned.
    """
    end = tokenizer.eos_token_id
    ids = [end, *tokenizer(text)["input_ids"]]
    if completion is None:
        return {"input_ids": [*ids, end], "labels": [IGNORED, *ids[1:], end]}
    answer = [*tokenizer(completion)["input_ids"], end]
    return {"input_ids": ids + answer, "labels": [IGNORED] * len(ids) + answer}


def answers_right(trained: Trained, questions: Iterable[Mapping[str, str]]) -> NDArray[np.bool_]:
    """Whether the model, always saying the likeliest token, answers exactly so and then stops.

    Args:
        trained: The model.
        questions: Pairs of "prompt" and "completion".

    Returns:
        Shape (n_questions,).
    """
    asked = [encoded(trained.tokenizer, pair["prompt"], pair["completion"]) for pair in questions]
    with torch.no_grad():
        logits, targets = _logits(trained.model, asked)
    # Greedy decoding gives the completion just where every token of it is the likeliest after
    # those before it.
    right = (logits.argmax(dim=-1) == targets) | (targets == IGNORED)
    return right.all(dim=1).numpy()


def losses(model: nn.Module, examples: Sequence[Example]) -> Tensor:
    """Mean loss over each example's target tokens, shape (n_examples,)."""
    logits, targets = _logits(model, examples)
    each = nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED
    )
    return each.sum(dim=1) / (targets != IGNORED).sum(dim=1)


def _logits(model: nn.Module, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Logits, shape (n_examples, n_tokens - 1, n_words), and the token each is to predict."""
    longest = max(len(example["input_ids"]) for example in examples)

    def padded(name: str, filler: int) -> Tensor:
        rows = [example[name] for example in examples]
        return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])

    ids, labels = padded("input_ids", 0), padded("labels", IGNORED)
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return model(input_ids=ids, attention_mask=mask).logits[:, :-1], labels[:, 1:]


def _untrained(
    tokenizer: Any, examples: list[Example], seed: int, width: int, n_layers: int
) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    longest = max(len(example["input_ids"]) for example in examples)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer), n_positions=max(64, longest), n_embd=width,
                n_layer=n_layers, n_head=N_HEADS, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
                use_cache=False,
            )
        )  # fmt: skip


def _batches(n_examples: int, n_steps: int, seed: int) -> list[list[int]]:
    """Positions of every step's examples: passes over all, each in a random order."""
    rng = np.random.default_rng(seed)
    n_passes = -(-n_steps * BATCH_SIZE // n_examples)
    order = np.concatenate([rng.permutation(n_examples) for _ in range(n_passes)])
    return order[: n_steps * BATCH_SIZE].reshape(n_steps, -1).tolist()
