"""`as_examples`: the examples of a run, for training and as queries, whatever holds them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from influence.errors import InputError
from llm_influence.columns import Ragged, is_hugging_face, numbers, table
from llm_influence.other_examples import OtherExamples
from llm_influence.tokens import IGNORED, TokenExamples

__all__ = ["IGNORED", "Examples", "OtherExamples", "TokenExamples", "as_examples"]

# Keys of records that hold text.
TEXTS = ("text", "prompt", "question", "messages")
# Collators of transformers that do nothing to a batch but pad it.
PADDING = (
    "default_data_collator", "DefaultDataCollator", "DataCollatorWithPadding",
    "DataCollatorForTokenClassification", "DataCollatorForSeq2Seq",
)  # fmt: skip


@runtime_checkable
class Examples(Protocol):
    """Examples of one run; slices and subsets are examples too."""

    @property
    def n_queries(self) -> int: ...

    @property
    def index(self) -> pd.Index:
        """The caller's labels of the examples."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, shape (n_queries,); ones where unknown."""
        ...

    @property
    def facts(self) -> Mapping[str, str | float]:
        """What a reader of a result should know of these examples."""
        ...

    def __getitem__(self, block: slice) -> Self: ...

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The examples at these positions, in this order."""
        ...

    def batch(self, rows: ArrayLike) -> Any:
        """The examples at these positions, collated, on the CPU."""
        ...

    def content(self, rows: slice) -> str:
        """Hash of what these examples hold; `index` is no part of it."""
        ...


def as_examples(
    dataset: Any,
    pad: Mapping[str, int] | int = 0,
    encode: Callable[[Any], TokenExamples] | None = None,
) -> Examples:
    """Examples from whatever holds them.

    `TokenExamples` where the examples are dicts with `input_ids`: a list of these, a dict of
    columns, a pandas DataFrame (its index labels the examples), a Hugging Face dataset, or a torch
    `Dataset`. `OtherExamples` for any other sequence or torch `Dataset`. Of a `DataLoader` the
    dataset and `collate_fn` are taken, and its sampler is ignored: row i is dataset[i], whatever
    the loader's shuffling, and all of the dataset is used. A collator of transformers that only
    pads is not needed, and `DataCollatorForLanguageModeling(mlm=False)` is followed in that
    labels are the tokens, without those that have the pad id.

    Args:
        dataset: The examples; `Examples` are returned as they are.
        pad: The number that fills up `input_ids`, or one for each key.
        encode: Turns raw records (texts, prompts with completions, messages) into examples.

    Raises:
        InputError: No examples, no positions (an `IterableDataset`), or texts without `encode`.
    """
    if isinstance(dataset, Examples):
        return dataset
    if isinstance(dataset, DataLoader):
        return _of_loader(dataset, pad, encode)
    _check_rows(dataset)
    keys, is_text = _first(dataset)
    if "input_ids" in keys:
        columns, index = _token_columns(dataset)
        return TokenExamples.of_columns(columns, index, pad)
    if is_text or any(name in keys for name in TEXTS):
        if encode is None:
            raise InputError(
                "Expected examples with input_ids, got texts; encode them as the model's training "
                "did: llm_influence.encode(records, tokenizer)."
            )
        return encode(dataset)
    if isinstance(dataset, Mapping | pd.DataFrame | pd.Series):
        raise InputError(
            f"Expected a column of input_ids, got {sorted(keys)}. For a loss of your own give the "
            "examples one by one: a list of dicts or tuples, or a torch TensorDataset."
        )
    return OtherExamples.of(dataset, default_collate)


def _check_rows(dataset: Any) -> None:
    """Refuses what has no rows at positions."""
    name = type(dataset).__name__
    if isinstance(dataset, IterableDataset):
        raise InputError(
            f"Expected examples with positions, got an iterable dataset ({name}), which has none; "
            "read it into a list: list(dataset)."
        )
    if isinstance(dataset, Mapping) and any(map(is_hugging_face, dataset.values())):
        raise InputError(
            f"Expected one set of examples, got a {name} of {sorted(dataset)}; choose one of them."
        )
    known = Sequence | Dataset | Mapping | pd.DataFrame | pd.Series
    if isinstance(dataset, str | bytes) or not (
        isinstance(dataset, known) or is_hugging_face(dataset)
    ):
        raise InputError(
            f"Expected a sequence of examples (a list, a Hugging Face or torch dataset, a "
            f"DataFrame, a DataLoader), got a {name}."
        )
    if not hasattr(dataset, "__len__") or len(dataset) == 0:
        raise InputError(f"Expected at least one example and a known number, got a {name} of none.")


def _first(dataset: Any) -> tuple[set[str], bool]:
    """The keys of the examples, and whether they are plain texts."""
    if isinstance(dataset, pd.DataFrame) or (
        is_hugging_face(dataset) and dataset.format["type"] != "custom"
    ):
        columns = dataset.columns if isinstance(dataset, pd.DataFrame) else dataset.column_names
        return set(map(str, columns)), False
    if isinstance(dataset, Mapping):
        return set(map(str, dataset)), False
    example = dataset.iloc[0] if isinstance(dataset, pd.Series) else dataset[0]
    keys = set(map(str, example)) if isinstance(example, Mapping) else set()
    return keys, isinstance(example, str)


def _token_columns(dataset: Any) -> tuple[Mapping[str, Any], pd.Index | None]:
    found = table(dataset)
    if found is None:
        found = table([dataset[i] for i in range(len(dataset))])
    assert found is not None
    return found


def _of_loader(
    loader: DataLoader[Any],
    pad: Mapping[str, int] | int,
    encode: Callable[[Any], TokenExamples] | None,
) -> Examples:
    dataset: Any = loader.dataset
    collate: Any = loader.collate_fn
    _check_rows(dataset)
    if loader.batch_sampler is None:
        raise InputError(
            "Expected a DataLoader that forms batches of single examples, got one of "
            "batch_size=None; give it a batch_size, or pass its dataset."
        )
    name = getattr(collate, "__name__", type(collate).__name__)
    if getattr(collate, "mlm", False) or name == "DataCollatorForPermutationLanguageModeling":
        raise InputError(
            f"Expected a collate_fn that gives the same batch each time, got {name}, which masks "
            "tokens at random. Mask once, beforehand, and pass the masked examples with labels."
        )
    if collate is default_collate:
        return as_examples(dataset, pad, encode)
    if "input_ids" in _first(dataset)[0] and str(collate.__module__).startswith("transformers."):
        columns, index = _token_columns(dataset)
        if name == "DataCollatorForLanguageModeling":
            columns = _language_modelling(columns, getattr(collate, "tokenizer", None))
        if name == "DataCollatorForLanguageModeling" or _only_pads(collate, name):
            return TokenExamples.of_columns(columns, index, pad)
    return OtherExamples.of(dataset, collate)


def _only_pads(collate: Any, name: str) -> bool:
    """Whether a collator of transformers does nothing that `TokenExamples.batch` does not."""
    own_label = getattr(collate, "label_pad_token_id", IGNORED) != IGNORED
    return name in PADDING and not own_label and getattr(collate, "model", None) is None


def _language_modelling(columns: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The columns with labels as `DataCollatorForLanguageModeling(mlm=False)` makes them."""
    kept = {name: column for name, column in columns.items() if name not in ("label", "labels")}
    ids = numbers("input_ids", kept["input_ids"])
    if isinstance(ids, Ragged):
        labels = np.where(ids.values == tokenizer.pad_token_id, IGNORED, ids.values)
        kept["labels"] = Ragged(labels, ids.lengths)
    return kept
