"""Batches of a recorded run as tensors of a file, and back.

Three kinds: "tokens", rows of `TokenExamples` that are in the file themselves; "kept", the batches
as they were given; "rows", rows of examples of the user's own, which must be given again.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from influence.errors import InputError, TrainingDataError
from llm_influence.examples import as_examples
from llm_influence.order.batches import Batches, Collected, Rows
from llm_influence.tokens import TokenExamples

Tensors = dict[str, Tensor]


def as_tensors(batches: Batches) -> tuple[dict[str, Any], Tensors]:
    """What describes batches, as JSON holds it, and their tensors.

    Raises:
        InputError: A batch has keys that are no texts.
    """
    sizes = torch.tensor([len(rows) for rows in batches.rows])
    found = {"sizes": sizes}
    if batches.kept is not None:
        shapes = [_shape(batch, found) for batch in batches.kept]
        return {"kind": "kept", "shapes": shapes}, found
    found["rows"] = torch.from_numpy(np.concatenate(batches.rows))
    if isinstance(batches.examples, TokenExamples):
        return {"kind": "tokens", **_of_tokens(batches.examples, found)}, found
    examples = batches.examples
    return {"kind": "rows", "content": examples.content(slice(0, examples.n_queries))}, found


def of_tensors(told: Mapping[str, Any], found: Mapping[str, Tensor], dataset: Any) -> Batches:
    """The batches again.

    Args:
        told: What describes them.
        found: Their tensors.
        dataset: The examples of the kind "rows", in the order of the recording.

    Raises:
        InputError: A dataset is missing, or not needed.
        TrainingDataError: It holds other examples.
    """
    if (dataset is None) == (told["kind"] == "rows"):
        raise InputError(
            "Expected the examples this run was recorded with, load(folder, dataset=examples): its "
            "steps name rows of them, got none."
            if dataset is None
            else "Expected no dataset, got one: this run's folder holds its examples; leave it out."
        )
    sizes = found["sizes"].numpy()
    if told["kind"] == "kept":
        collected = Collected(None)
        for shape, size in zip(told["shapes"], sizes, strict=True):
            collected.add(_filled(shape, found), int(size))
        return collected.batches()
    rows: tuple[Rows, ...] = tuple(np.split(found["rows"].numpy(), np.cumsum(sizes)[:-1]))
    if told["kind"] == "tokens":
        return Batches(_tokens(told, found), rows)
    examples = as_examples(dataset)
    if examples.content(slice(0, examples.n_queries)) != told["content"]:
        raise TrainingDataError(
            f"Expected the examples this run was recorded with, got {examples.n_queries} others; "
            "give the same ones in the same order."
        )
    return Batches(examples, rows)


def _shape(batch: Any, found: Tensors) -> Any:
    """What holds the tensors of a batch, with their names for them; adds them to `found`."""
    if isinstance(batch, Tensor):
        name = f"batches.{len(found)}"
        found[name] = batch
        return name
    if isinstance(batch, Mapping):
        wrong = [key for key in batch if not isinstance(key, str)]
        if wrong:
            raise InputError(
                f"Expected batches whose keys are texts, got the key {wrong[0]!r}; record with "
                "such batches to save the run."
            )
        return {"dict": {key: _shape(value, found) for key, value in batch.items()}}
    kind = "list" if isinstance(batch, list) else "tuple"
    return {kind: [_shape(value, found) for value in batch]}


def _filled(shape: Any, found: Mapping[str, Tensor]) -> Any:
    if isinstance(shape, str):
        return found[shape]
    ((kind, inner),) = shape.items()
    if kind == "dict":
        return {key: _filled(value, found) for key, value in inner.items()}
    parts = [_filled(value, found) for value in inner]
    return parts if kind == "list" else tuple(parts)


def _of_tokens(examples: TokenExamples, found: Tensors) -> dict[str, Any]:
    """The tokens of these examples end to end, without those of others that share the memory."""
    ends = np.cumsum(examples.lengths)
    source = np.repeat(examples.starts - (ends - examples.lengths), examples.lengths)
    source += np.arange(len(source))
    found["lengths"] = torch.from_numpy(examples.lengths)
    for name, values in examples.per_token.items():
        found[f"per_token.{name}"] = torch.from_numpy(values[source])
    for name, values in examples.per_example.items():
        found[f"per_example.{name}"] = torch.from_numpy(np.ascontiguousarray(values))
    return {
        "pad": dict(examples.pad),
        "facts": dict(examples.facts),
        "index": None if isinstance(examples.index, pd.RangeIndex) else _labels(examples.index),
    }


def _labels(index: pd.Index) -> list[Any]:
    """Labels of examples as JSON holds them; what is neither number nor text becomes a text."""
    return [one if isinstance(one, str | int | float) else str(one) for one in index.tolist()]


def _tokens(told: Mapping[str, Any], found: Mapping[str, Tensor]) -> TokenExamples:
    lengths = found["lengths"].numpy()
    given = told["index"]
    return TokenExamples(
        dict(_named("per_token.", found)),
        dict(_named("per_example.", found)),
        np.cumsum(lengths) - lengths,
        lengths,
        pd.RangeIndex(len(lengths)) if given is None else pd.Index(given),
        told["pad"],
        told["facts"],
    )


def _named(prefix: str, found: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    for name, tensor in found.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor.numpy()
