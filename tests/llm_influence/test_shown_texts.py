"""Tokens as pieces of text: they join to what the tokenizer decodes, whatever it merges."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

from influence.errors import InputError
from llm_influence import encode
from llm_influence.shown_texts import MOST_TOKENS, reader_of, shown_text
from llm_influence.tokens import TokenExamples
from tests.llm_influence.small_tokenizers import bpe

TEXTS = ["the cat sat", " a  dog\n\nran", "naïve 漢字 🙂!", "x", "a <s> b", "\ttab 🇩🇪"]


@pytest.fixture(scope="session")
def stories(data_folder):
    """The tokenizer of stories260K: a leading blank, and bytes for what it does not know."""
    folder = str(Path(__file__).parents[2] / "datasets")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from stories import tokenizer

    return tokenizer(data_folder / "models" / "stories260K" / "tok512.bin")


def check(tokenizer):
    reader = reader_of(tokenizer)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        pieces, starts = reader.split(ids)
        assert "".join(pieces) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert all(pieces) and "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
        assert starts[0] == 0 and (np.diff([*starts, len(ids)]) > 0).all()


@pytest.mark.parametrize("ends", ["nothing", "bos", "both"])
def test_byte_level_pieces_join_to_the_text(ends):
    check(bpe(ends))


def test_sentencepiece_pieces_join_to_the_text(stories):
    check(stories)
    pieces, _ = reader_of(stories).split(stories("the cat")["input_ids"])
    assert pieces[:2] == ["<s>", " the"]


def test_tokens_of_one_character_are_one_piece():
    tokenizer = bpe()
    ids = tokenizer("a 漢 b")["input_ids"]
    pieces, starts = reader_of(tokenizer).split(ids)
    assert "漢" in pieces
    at = pieces.index("漢")
    assert starts[at + 1] - starts[at] > 1, "its bytes are several tokens"
    shown = shown_text(TokenExamples.of_columns({"input_ids": [ids]}), 0, reader_of(tokenizer))
    values = np.arange(len(ids), dtype=float)
    by_piece = shown.by_piece(values)
    assert by_piece[at] == values[starts[at] : starts[at + 1]].sum()
    assert by_piece.sum() == values.sum()


def test_a_character_cut_in_the_middle_is_still_shown():
    tokenizer = bpe()
    ids = tokenizer("ab漢")["input_ids"][:-1]
    pieces, _ = reader_of(tokenizer).split(ids)
    assert "".join(pieces) == tokenizer.decode(ids)


def test_prompt_and_answer_are_told_apart():
    tokenizer = bpe("bos")
    made = encode([{"prompt": "the cat", "completion": " sat"}], tokenizer)
    text = shown_text(made, 0, reader_of(tokenizer)).text
    assert text.answer is not None
    answer = [piece for piece, own in zip(text.pieces, text.answer, strict=True) if own]
    assert "".join(answer) == " sat</s>"
    assert [text.pieces[i] for i in np.flatnonzero(text.special)] == ["<s>", "</s>"]
    plain = shown_text(encode(["the cat"], tokenizer), 0, reader_of(tokenizer)).text
    assert plain.answer is None, "a text without a prompt is learned as a whole"


@pytest.mark.parametrize(
    ("n_prompt", "n_answer", "before"), [(10, 2000, 0), (900, 300, 600), (1990, 10, 1400)]
)
def test_of_a_long_text_the_beginning_of_the_answer_is_shown(n_prompt, n_answer, before):
    n = n_prompt + n_answer
    columns = {
        "input_ids": [list(range(n))],
        "labels": [[-100] * n_prompt + list(range(n_prompt, n))],
    }
    shown = shown_text(
        TokenExamples.of_columns(columns), 0, reader_of(lambda ids: [f"{i} " for i in ids])
    )
    assert len(shown.text.pieces) == MOST_TOKENS
    assert shown.text.before == before and shown.text.after == n - before - MOST_TOKENS
    assert f"{n_prompt} " in shown.text.pieces and shown.text.pieces[0] == f"{before} "
    assert shown.by_piece(np.arange(n) * 1.0)[0] == before


def test_what_reads_no_tokens_is_refused():
    with pytest.raises(InputError, match=r"tokenizer, or a function .* got a NoneType"):
        reader_of(None)
    with pytest.raises(InputError, match="a text for each of 3 token ids, got 1"):
        reader_of(lambda ids: ["all"]).split([1, 2, 3])
