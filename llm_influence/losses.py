"""Losses of one example each, for the models people bring, and the outputs made of them.

Every loss has the signature loss(model, batch) -> (n_examples,). For a causal language model it is
the mean of the negative log likelihoods of an example's target tokens (label -100 = no target);
for a classifier the negative log likelihood of its class; for a regression head the squared error
divided by 2, summed over its outputs. The log-odds of TRAK have the same signature and the same
direction: low is good.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from influence.errors import InputError, UnsupportedModelError

IGNORED = -100  # label of a token that is no target


def causal_lm(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean negative log likelihood of an example's target tokens, in nats a token."""
    losses, is_target = token_losses(model, batch)
    return losses.sum(1) / is_target.sum(1)


def causal_lm_sum(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Sum of the negative log likelihoods of an example's target tokens, in nats."""
    return token_losses(model, batch)[0].sum(1)


def classification(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Negative log likelihood of an example's class."""
    return F.cross_entropy(logits_of(model, batch), batch["labels"].long(), reduction="none")


def regression(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Squared error divided by 2, summed over outputs."""
    found = logits_of(model, batch)
    labels = batch["labels"].to(found.dtype).reshape(found.shape)
    return (found - labels).square().sum(1) / 2


def token_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Negative log likelihood of each position's next token, and whether that is a target.

    Both of shape (n_examples, n_tokens); the last position has no next token.
    """
    logits, labels = _next_tokens(model, batch)
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view_as(labels), labels != IGNORED


def causal_lm_odds(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean over an example's target tokens of log((1 - p) / p), with p the token's probability."""
    odds, is_target = _token_odds(model, batch)
    return (odds * is_target).sum(1) / is_target.sum(1)


def causal_lm_doubt(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean over an example's target tokens of 1 - p."""
    odds, is_target = _token_odds(model, batch)
    return (odds.sigmoid() * is_target).sum(1) / is_target.sum(1)


def classification_odds(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """log((1 - p) / p), with p the probability of an example's class."""
    return against(logits_of(model, batch), batch["labels"].long())


def classification_doubt(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """1 - p of an example's class."""
    return classification_odds(model, batch).sigmoid()


def against(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds log((1 - p) / p) against the labels, without the rounding of 1 - p.

    They are logsumexp of the other classes' logits minus the logit of the label.

    Args:
        logits: Shape (..., n_classes).
        labels: Shape (...).
    """
    place = labels[..., None]
    others = logits.scatter(-1, place, float("-inf")).logsumexp(-1)
    return others - logits.gather(-1, place)[..., 0]


def _token_odds(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-odds against each position's next token, and whether that is a target."""
    logits, labels = _next_tokens(model, batch)
    return against(logits, labels.clamp_min(0)), labels != IGNORED


def _next_tokens(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits (n_examples, n_tokens, n_words) and each position's next token as its label."""
    # Labels are shifted, not logits: those can then be viewed flat without a copy.
    labels = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    return logits_of(model, batch, use_cache=False), labels.long()


def default_loss(model: nn.Module) -> Any:
    """The loss of a Hugging Face model by the task its class is made for.

    Raises:
        UnsupportedModelError: There is no default for this model: pass loss=.
    """
    name = type(_inner(model)).__name__
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return causal_lm
    if name.endswith("ForSequenceClassification"):
        kind = getattr(getattr(model, "config", None), "problem_type", None)
        n_labels = int(getattr(getattr(model, "config", None), "num_labels", 2))
        if kind == "multi_label_classification":
            raise UnsupportedModelError(
                f"No loss is known for {name} with several labels an example; pass "
                "loss(model, batch) -> (n_examples,)."
            )
        return regression if kind == "regression" or n_labels == 1 else classification
    raise UnsupportedModelError(
        "Expected a Hugging Face causal language model or sequence classifier, whose loss is "
        f"known, got a {name}; pass loss(model, batch) -> (n_examples,), one loss for each "
        "example."
    )


def _inner(model: nn.Module) -> nn.Module:
    """The model inside a PEFT wrapper, whose class tells the task."""
    get: Any = getattr(model, "get_base_model", None)
    return model if get is None else get()


def logits_of(model: nn.Module, batch: Mapping[str, Tensor], **options: bool) -> Tensor:
    if not isinstance(batch, Mapping) or "labels" not in batch:
        raise InputError(
            "The built-in losses need examples as dicts with input_ids and labels, got "
            f"{sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__}; give "
            "labels, or pass loss(model, batch)."
        )
    known = inspect.signature(_inner(model).forward).parameters
    inputs = {name: value for name, value in batch.items() if name in known and name != "labels"}
    found = model(**inputs, **options)
    logits = found.logits
    return logits if logits.dtype == torch.float64 else logits.float()
