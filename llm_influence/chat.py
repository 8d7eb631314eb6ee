"""Conversations as tokens, by a tokenizer's chat template, and which tokens the assistant wrote."""

import re
from typing import TYPE_CHECKING, Any

from influence.errors import InputError
from influence.progress import track
from llm_influence.tokens import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encoded = tuple[list[list[int]], list[list[int]]]  # token ids and labels of each record
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def encode_messages(
    conversations: list[list[dict[str, Any]]],
    tokenizer: "PreTrainedTokenizerBase",
    answer_only: bool,
    progress: bool,
) -> Encoded:
    """Token ids and labels of conversations; see `llm_influence.encode` for the rules.

    Raises:
        InputError: There is no chat template, it refuses a conversation, or it does not show
            where an assistant's turn begins.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"Expected a tokenizer with a chat template, got {tokenizer.name_or_path!r} without "
            "one; set tokenizer.chat_template to the one of the model's training, or give prompts "
            "and completions."
        )
    for i, messages in enumerate(conversations):
        if not messages or not all({"role", "content"} <= set(message) for message in messages):
            raise InputError(
                f"Expected messages to be dicts of role and content, at least one; record {i} has "
                f"{messages!r:.80}."
            )
    marked = tokenizer.is_fast and MARKED.search(tokenizer.get_chat_template()) is not None
    ids, labels = [], []
    tracked = track(conversations, "conversations", len(conversations), progress)
    for i, messages in enumerate(tracked):
        if marked:
            made = _laid_out(tokenizer, i, messages, return_assistant_tokens_mask=True)
            tokens, written = made["input_ids"], made["assistant_masks"]
        else:
            tokens = _laid_out(tokenizer, i, messages)["input_ids"]
            written = _written(tokenizer, i, messages, tokens) if answer_only else []
        ids.append(tokens)
        if answer_only:
            pairs = zip(tokens, written, strict=True)
            tokens = [token if mine else IGNORED for token, mine in pairs]
        labels.append(tokens)
    return ids, labels


def _written(
    tokenizer: "PreTrainedTokenizerBase", i: int, messages: list[dict[str, Any]], whole: list[int]
) -> list[bool]:
    """Whether the assistant wrote each token, by encoding the conversation turn by turn."""
    written = [False] * len(whole)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start, end = 0, len(whole)
        if turn:
            start = _prefix(tokenizer, i, messages[:turn], whole, add_generation_prompt=True)
        if turn + 1 < len(messages):
            end = _prefix(tokenizer, i, messages[: turn + 1], whole)
        written[start:end] = [True] * (end - start)
    return written


def _prefix(
    tokenizer: "PreTrainedTokenizerBase",
    i: int,
    messages: list[dict[str, Any]],
    whole: list[int],
    add_generation_prompt: bool = False,
) -> int:
    """The number of tokens of these first messages, which must be the first of the whole."""
    made = _laid_out(tokenizer, i, messages, add_generation_prompt=add_generation_prompt)
    start = made["input_ids"]
    if whole[: len(start)] != start:
        raise InputError(
            f"Expected the chat template to lay out the first {len(messages)} messages of record "
            f"{i} as the beginning of the whole conversation, which would show the assistant's "
            "turns; it does not. Use a template with {% generation %} around them, or "
            "answer_only=False."
        )
    return len(start)


def _laid_out(
    tokenizer: "PreTrainedTokenizerBase",
    i: int,
    messages: list[dict[str, Any]],
    *,
    add_generation_prompt: bool = False,
    return_assistant_tokens_mask: bool = False,
) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=add_generation_prompt,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
        )
    except (TemplateError, TypeError, ValueError) as error:  # templates add and cut contents
        raise InputError(
            f"The chat template refuses record {i}: {error}. Give each message's content as this "
            "template takes it, mostly a text."
        ) from error
