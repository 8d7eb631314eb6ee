"""`encode`: texts, prompts with completions, and conversations as examples of tokens."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from influence.checks import check_whole
from influence.errors import InputError
from influence.progress import track
from llm_influence.chat import Encoded, encode_messages
from llm_influence.columns import as_list, is_hugging_face, table
from llm_influence.tokens import IGNORED, TokenExamples, named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 1000  # texts that a tokenizer is given
UNLIMITED = 1_000_000  # tokenizers without a limit state a larger one
KINDS = (("messages",), ("prompt", "completion"), ("question", "answer"), ("text",))


def encode(
    records: Any,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None = None,
    *,
    answer_only: bool = True,
    progress: bool = False,
) -> TokenExamples:
    """Examples of tokens from raw records, labelled with what the model was trained to predict.

    | record                                              | targets                              |
    |-----------------------------------------------------|--------------------------------------|
    | a text, or {"text"}                                 | all tokens but the first             |
    | {"text", "label"}                                   | the label, for a classifier          |
    | {"prompt", "completion"} or {"question", "answer"}  | the completion, or all               |
    | {"messages"}: dicts of role and content             | the assistant's turns, or all        |

    A text is encoded as the tokenizer does it, special tokens included, and ended by the
    tokenizer's EOS token if it has one and does not add it itself; so is a completion. With a
    label nothing is added.

    A prompt's tokens are those that the model sees before it answers: the prompt encoded alone,
    without an EOS token at its end. The completion's tokens are the rest of prompt and completion
    encoded as one text. Where the tokenizer merges across the border (the prompt ends in a space,
    say), so that the whole does not begin with the prompt's tokens, the completion is encoded
    alone instead. Nothing is put between the two: begin the completion with its space.

    A conversation is laid out by the tokenizer's chat template, and nothing is added. Its targets
    are what the template marks by {% generation %}; without such marks, what each assistant turn
    adds to the conversation before it with the generation prompt.

    Args:
        records: A list of texts or of dicts, a dict of columns, a Hugging Face dataset, a pandas
            DataFrame or Series (its index labels the examples). Other keys are left aside; of
            records with keys of several kinds, messages are taken first and texts last.
        tokenizer: The model's tokenizer.
        max_length: Longer examples lose their end; `facts["truncated"]` counts them. By default
            what the tokenizer states, if it states a limit. With a label the tokenizer truncates.
        answer_only: Only completions and assistant turns are targets.
        progress: Show a bar on many records.

    Raises:
        InputError: Records of another form, no target left after truncation, or a chat template
            that does not show where an assistant's turn begins.
    """
    if max_length is None:
        stated = tokenizer.model_max_length
        max_length = int(stated) if stated < UNLIMITED else None
    else:
        check_whole("max_length", max_length, least=2)
    columns, index = _read(records)
    if "labels" in columns:
        made, n_truncated = _encode_labelled(columns, tokenizer, max_length, progress)
    else:
        ids, labels = _encode(columns, tokenizer, answer_only, progress)
        made, n_truncated = _truncated(ids, labels, max_length, index)
    return TokenExamples.of_columns(
        made, index, _pad(tokenizer), {"truncated": float(n_truncated)},
        partial(encode, tokenizer=tokenizer, max_length=max_length, answer_only=answer_only),
    )  # fmt: skip


def _pad(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    token = next(int(token) for token in known if isinstance(token, int))
    return {"input_ids": token, "token_type_ids": tokenizer.pad_token_type_id}


def _read(records: Any) -> tuple[dict[str, list[Any]], pd.Index]:
    """Columns of one kind of record (prompts first, then labels), and labels of the rows."""
    found, index = _columns(records)
    wanted = next((kind for kind in KINDS if set(kind) <= found.keys()), None)
    if wanted is None:
        raise InputError(
            "Expected texts, or records with the keys text, prompt and completion, question and "
            f"answer, or messages; got the keys {sorted(found)}. Rename them."
        )
    kept = dict(zip(("prompt", "completion"), wanted, strict=False)) if len(wanted) == 2 else {}
    names = kept or {wanted[0]: wanted[0]}
    columns = {name: as_list(found[column]) for name, column in names.items()}
    labels = [name for name in ("label", "labels") if name in found]
    if wanted == ("text",) and labels:
        columns["labels"] = as_list(found[labels[0]])
    n = len(next(iter(columns.values())))
    index = pd.RangeIndex(n) if index is None else index
    _check(columns, index)
    return columns, index


def _columns(records: Any) -> tuple[Mapping[str, Any], pd.Index | None]:
    if isinstance(records, pd.Series):
        found, _ = _columns(records.tolist())
        return found, records.index
    texts = isinstance(records, Sequence) and not isinstance(records, str) and len(records)
    if texts and isinstance(records[0], str):
        return {"text": list(records)}, None
    if is_hugging_face(records):
        return _of_hugging_face(records), None
    found = table(records)
    if found is None:
        raise InputError(
            "Expected a list of texts or dicts, a Hugging Face dataset or a DataFrame of at least "
            f"one record, got a {type(records).__name__}."
        )
    return found


def _of_hugging_face(records: Any) -> Mapping[str, Any]:
    if records.format["type"] == "custom":
        records = records[:]
        return {name: records[name] for name in records}
    known = {name for kind in KINDS for name in kind} | {"label", "labels"}
    chosen = [name for name in records.column_names if name in known]
    return records.select_columns(chosen).with_format(None)[:] if chosen else {}


def _check(columns: Mapping[str, list[Any]], index: pd.Index) -> None:
    for name, column in columns.items():
        if len(column) != len(index):
            raise InputError(
                f"Expected one {name!r} for each of the {len(index)} records, got {len(column)}."
            )
        kind = {"messages": list, "labels": object}.get(name, str)
        wrong = np.flatnonzero([not isinstance(value, kind) for value in column])
        if wrong.size:
            got = type(column[wrong[0]]).__name__
            expected = "a list of messages" if name == "messages" else "a text"
            raise InputError(
                f"Expected {expected} as {name!r} of every record; {named(wrong, index)} another "
                f"kind of value: {got}. Conversations go under the key messages."
            )


def _encode(
    columns: Mapping[str, list[Any]],
    tokenizer: "PreTrainedTokenizerBase",
    answer_only: bool,
    progress: bool,
) -> Encoded:
    if "messages" in columns:
        return encode_messages(columns["messages"], tokenizer, answer_only, progress)
    if "prompt" in columns:
        ids, borders = _encode_pairs(columns["prompt"], columns["completion"], tokenizer, progress)
    else:
        ids, borders = _encode_texts(columns["text"], tokenizer, progress)
    if not answer_only:
        return ids, ids
    labels = [
        [IGNORED] * border + tokens[border:] for tokens, border in zip(ids, borders, strict=True)
    ]
    return ids, labels


def _tokenized(
    texts: list[str],
    tokenizer: "PreTrainedTokenizerBase",
    progress: bool,
    *,
    special: bool = True,
    max_length: int | None = None,
) -> dict[str, list[Any]]:
    """What the tokenizer gives for texts, some at a time.

    Args:
        texts: The texts.
        tokenizer: The tokenizer.
        progress: Show a bar.
        special: Add special tokens.
        max_length: Tokens after which the tokenizer truncates; None for no truncation.
    """
    columns: dict[str, list[Any]] = {}
    starts = range(0, len(texts), AT_ONCE)
    for start in track(starts, "tokens", len(starts), progress):
        made = tokenizer(
            texts[start : start + AT_ONCE], add_special_tokens=special, verbose=False,
            truncation=max_length is not None, max_length=max_length,
        )  # fmt: skip
        for name, values in made.items():
            columns.setdefault(name, []).extend(values)
    return columns


def _encode_texts(
    texts: list[str], tokenizer: "PreTrainedTokenizerBase", progress: bool
) -> tuple[list[list[int]], list[int]]:
    """Token ids of texts, and that none of them are prompt."""
    found = _tokenized(texts, tokenizer, progress)["input_ids"]
    return [_ended(tokens, tokenizer.eos_token_id) for tokens in found], [0] * len(texts)


def _encode_pairs(
    prompts: list[str], completions: list[str], tokenizer: "PreTrainedTokenizerBase", progress: bool
) -> tuple[list[list[int]], list[int]]:
    """Token ids of prompts with completions, and how many of them are prompt."""
    eos = tokenizer.eos_token_id
    n_ending = int(_adds_eos(tokenizer))
    before = [
        tokens[: len(tokens) - n_ending]
        for tokens in _tokenized(prompts, tokenizer, progress)["input_ids"]
    ]
    together = [prompt + answer for prompt, answer in zip(prompts, completions, strict=True)]
    found = _tokenized(together, tokenizer, progress)["input_ids"]
    whole = [_ended(tokens, eos) for tokens in found]
    merged = [i for i, start in enumerate(before) if whole[i][: len(start)] != start]
    if merged:
        answers = [completions[i] for i in merged]
        alone = _tokenized(answers, tokenizer, progress, special=False)["input_ids"]
        for i, tokens in zip(merged, alone, strict=True):
            whole[i] = before[i] + _ended(tokens, eos)
    return whole, [len(start) for start in before]


def _adds_eos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer ends every text by its EOS token."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tokenizer("a")["input_ids"][len(alone) :][-1:] == [tokenizer.eos_token_id]


def _ended(tokens: list[int], eos: Any) -> list[int]:
    return tokens if eos is None or tokens[-1:] == [eos] else [*tokens, eos]


def _encode_labelled(
    columns: Mapping[str, list[Any]],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
    progress: bool,
) -> tuple[dict[str, Any], int]:
    """What the tokenizer gives for the texts, with their labels; and how many are truncated."""
    texts = columns["text"]
    made = _tokenized(texts, tokenizer, progress)
    n_over = 0
    if max_length is not None:
        n_over = sum(len(tokens) > max_length for tokens in made["input_ids"])
        if n_over:
            made = _tokenized(texts, tokenizer, progress, max_length=max_length)
    return {**made, "labels": columns["labels"]}, n_over


def _truncated(
    ids: list[list[int]], labels: list[list[int]], max_length: int | None, index: pd.Index
) -> tuple[dict[str, Any], int]:
    """The columns without what is beyond max_length; and how many examples that concerns."""
    if max_length is None:
        return {"input_ids": ids, "labels": labels}, 0
    over = [i for i, tokens in enumerate(ids) if len(tokens) > max_length]
    cut = [tokens[:max_length] for tokens in labels]
    lost = [i for i in over if all(label == IGNORED for label in cut[i][1:])]
    if lost:
        raise InputError(
            f"Expected part of the answer among the first {max_length} tokens; "
            f"{named(np.array(lost), index)} only prompt there. Raise max_length (the model's "
            "limit permitting), shorten the prompts, or drop these records."
        )
    return {"input_ids": [tokens[:max_length] for tokens in ids], "labels": cut}, len(over)
