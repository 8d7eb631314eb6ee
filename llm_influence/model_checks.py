"""What `trace` and queries are checked for, before a model is run: the model and its examples."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from influence.errors import InputError, UnsupportedModelError
from llm_influence.examples import Examples, TokenExamples
from llm_influence.gradients import Loss
from llm_influence.losses import causal_lm, causal_lm_sum, classification, regression
from llm_influence.tokens import named


def check_model(model: nn.Module) -> None:
    """Refuses models whose modules are not run as such.

    Raises:
        UnsupportedModelError: It is compiled, or wrapped by DataParallel.
    """
    for module in model.modules():
        inner = getattr(module, "_orig_mod", None)
        if inner is not None or getattr(module, "_compiled_call_impl", None) is not None:
            raise UnsupportedModelError(
                "Expected a model that runs its modules one by one, got a compiled one "
                "(torch.compile); trace the model as it was before (model._orig_mod), whose "
                "weights are the same."
            )
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise UnsupportedModelError(
                f"Expected the model itself, got one inside {type(module).__name__}, which splits "
                "batches; trace model.module."
            )


def padding_of(model: nn.Module) -> int:
    """The token a model takes for padding, 0 if it names none."""
    token = getattr(getattr(model, "config", None), "pad_token_id", None)
    return int(token) if isinstance(token, int) and token >= 0 else 0


def check_examples(model: nn.Module, loss: Loss, examples: Examples) -> None:
    """Refuses examples that the model cannot take: too long, or of other tokens or labels.

    Raises:
        InputError: Which examples, and what was expected.
    """
    _check_positions(model, examples)
    if not isinstance(examples, TokenExamples) or not examples.n_queries:
        return
    n_words = _rows_of(model, "get_input_embeddings")
    if n_words is not None:
        known: Any = getattr(model, "config", None)
        _check_below(examples, "input_ids", n_words, "the model's tokens")
        n_types = int(getattr(known, "type_vocab_size", n_words))
        _check_below(examples, "token_type_ids", n_types, "the model's token types")
    if loss in (causal_lm, causal_lm_sum):
        n_outputs = _rows_of(model, "get_output_embeddings") or n_words
        if n_outputs is not None:
            _check_below(examples, "labels", n_outputs, "the model's tokens")
    elif loss in (classification, regression):
        _check_labels(model, loss, examples)


def _check_positions(model: nn.Module, examples: Examples) -> None:
    most = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(most, int) or not examples.n_queries:
        return
    longest = int(examples.lengths.argmax())
    if examples.lengths[longest] > most:
        raise InputError(
            f"Expected examples of at most {most} tokens, the positions this model has, but "
            f"{int((examples.lengths > most).sum())} are longer, the longest (example {longest}) "
            f"has {int(examples.lengths[longest])}; encode with max_length={most}."
        )


def _check_below(examples: TokenExamples, name: str, n: int, what: str) -> None:
    found = examples.first_outside(name, n)
    if found is not None:
        row, value = found
        raise InputError(
            f"Expected {name} to be whole numbers below {n} ({what} are 0 to {n - 1}); "
            f"{named(np.array([row]), examples.index)} {value:.10g}. Use the tokenizer and the "
            "labels of the model's training."
        )


def _check_labels(model: nn.Module, loss: Loss, examples: TokenExamples) -> None:
    if "labels" not in examples.per_example:
        raise InputError(
            "Expected one label for each example, a class or a number, got none, or one for each "
            'token; give them as "labels".'
        )
    labels = examples.per_example["labels"]
    if loss is regression:
        _refuse(examples, ~np.isfinite(labels), "a finite number as label", "leave them out")
        return
    n_classes = getattr(getattr(model, "config", None), "num_labels", None)
    if isinstance(n_classes, int):
        _check_below(examples, "labels", n_classes, "the model's classes")


def _refuse(examples: TokenExamples, bad: NDArray[np.bool_], expected: str, todo: str) -> None:
    rows = np.flatnonzero(bad)
    if rows.size:
        raise InputError(
            f"Expected {expected.strip()}, but {named(rows, examples.index)} another; {todo}."
        )


def _rows_of(model: nn.Module, getter: str) -> int | None:
    """Rows of the weight of the module that a Hugging Face model gives, None if there is none."""
    get: Any = getattr(model, getter, None)
    try:
        weight = None if get is None else getattr(get(), "weight", None)
    except NotImplementedError:
        return None
    return None if weight is None or weight.dim() != 2 else len(weight)
