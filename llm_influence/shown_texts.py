"""`ShownText`: an example of tokens as the pieces of text that a person reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence.errors import InputError
from influence.report import Text
from llm_influence.tokens import IGNORED, TokenExamples

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

MOST_TOKENS = 600  # of a text; each costs one decoding of those before it
BEFORE_ANSWER = 200  # tokens of a longer prompt that are shown


@dataclass(frozen=True, eq=False)
class Reader:
    """How tokens become text.

    Attributes:
        split: From token ids to pieces that join to their text, and where each piece begins.
        special: Ids that stand for no text: ends, padding.
    """

    split: Callable[[list[int]], tuple[list[str], list[int]]]
    special: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class ShownText:
    """A text, and which tokens of the example its pieces are.

    Attributes:
        text: What is shown.
        tokens: The tokens shown.
        starts: Where each piece begins among these, shape (n_pieces,).
    """

    text: Text
    tokens: slice
    starts: Positions

    def by_piece(self, of_tokens: Floats) -> Floats:
        """Values of all tokens of the example, added up by piece."""
        return np.add.reduceat(of_tokens[self.tokens], self.starts)


def reader_of(tokenizer: Any) -> Reader:
    """What reads the tokens of a tokenizer, or of a function from ids to one piece for each.

    Raises:
        InputError: Neither of these.
    """
    decode = getattr(tokenizer, "decode", None)
    if decode is not None:
        return Reader(_Decoded(decode), frozenset(getattr(tokenizer, "all_special_ids", ())))
    if callable(tokenizer):
        return Reader(_Named(tokenizer))
    raise InputError(
        "Expected the model's tokenizer, or a function from token ids to one text for each, got a "
        f"{type(tokenizer).__name__}."
    )


def shown_text(examples: TokenExamples, row: int, reader: Reader) -> ShownText:
    """One example as text; of a long one a part, with the beginning of its answer in it."""
    one = examples[row : row + 1].batch([0])
    ids, targets = one["input_ids"][0].numpy(), np.ones(int(examples.lengths[row]), dtype=bool)
    if "labels" in examples.per_token:
        targets = one["labels"][0].numpy() != IGNORED
        targets[0] = targets[:2].any()  # the first token is never a target: it goes with the next
    first = max(0, min(len(ids) - MOST_TOKENS, int(targets.argmax()) - BEFORE_ANSWER))
    tokens = slice(first, min(first + MOST_TOKENS, len(ids)))
    pieces, begun = reader.split(ids[tokens].tolist())
    starts = np.array(begun, dtype=np.int64)
    special = np.isin(ids[tokens][starts], list(reader.special))
    text = Text(
        pieces,
        None if targets.all() else np.logical_or.reduceat(targets[tokens], starts).tolist(),
        special.tolist(),
        tokens.start,
        len(ids) - tokens.stop,
    )
    return ShownText(text, tokens, starts)


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Pieces of what a tokenizer decodes.

    A piece ends where all tokens so far decode to the beginning of the whole text. So tokens that
    are parts of one character, or that are written otherwise once the next is there, are one piece;
    and pieces always join to the whole text.
    """

    decode: Callable[..., Any]

    def __call__(self, ids: list[int]) -> tuple[list[str], list[int]]:
        whole = self._text(ids)
        pieces, starts, begun = [], [], 0
        for stop in range(1, len(ids)):
            text, done = self._text(ids[:stop]), sum(map(len, pieces))
            if len(text) > done and whole.startswith(text):
                pieces.append(text[done:])
                starts.append(begun)
                begun = stop
        rest = whole[sum(map(len, pieces)) :]
        if rest or not pieces:
            return [*pieces, rest], [*starts, begun]
        return pieces, starts

    def _text(self, ids: list[int]) -> str:
        return str(self.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass(frozen=True, eq=False)
class _Named:
    """Pieces by a function of the caller's."""

    name: Callable[..., Any]

    def __call__(self, ids: list[int]) -> tuple[list[str], list[int]]:
        pieces = list(self.name(ids))
        if len(pieces) != len(ids) or not all(isinstance(piece, str) for piece in pieces):
            raise InputError(
                f"Expected a text for each of {len(ids)} token ids, got {len(pieces)}: "
                f"{pieces!r:.80}."
            )
        return pieces, list(range(len(ids)))
