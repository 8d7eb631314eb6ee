"""Encoded records against the tokenizer itself and against text read back from the tokens."""

import pandas as pd
import pytest

import datasets
from influence.errors import InputError
from llm_influence.encoding import encode
from llm_influence.examples import as_examples
from tests.llm_influence.small_tokenizers import MARKED, UNMARKED, bpe

ALL = slice(None)
PLAIN, BOS, BOTH = bpe(), bpe("bos"), bpe("both")
NO_EOS = bpe(eos_token=None)
TEXTS = ["the cat sat", "what is the answer?", "a dog ran to the mat"]
PROMPTS = ["what is it?", "the cat ", "a"]
COMPLETIONS = [" the answer", "sat on the mat", " dog"]
PAIRS = [{"prompt": p, "completion": c} for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
TALK = [
    {"role": "user", "content": "what is it?"},
    {"role": "assistant", "content": "the cat"},
    {"role": "user", "content": "the dog?"},
    {"role": "assistant", "content": "it ran"},
]
TALKS = [{"messages": TALK}, {"messages": TALK[:2]}]


def tokens(examples, i):
    return examples.batch([i])["input_ids"][0].tolist()


def targets(examples, i):
    """Labels of one example, without those that are none."""
    return [label for label in examples.batch([i])["labels"][0].tolist() if label != -100]


@pytest.mark.parametrize("tokenizer", [PLAIN, BOS, BOTH], ids=["plain", "bos", "both"])
def test_a_text_is_what_the_tokenizer_makes_of_it_and_one_eos(tokenizer):
    made = encode(TEXTS, tokenizer)
    for i, text in enumerate(TEXTS):
        inner = tokenizer(text, add_special_tokens=False)["input_ids"]
        before = [] if tokenizer is PLAIN else [tokenizer.bos_token_id]
        assert tokens(made, i) == targets(made, i) == [*before, *inner, tokenizer.eos_token_id]
    assert made.facts == {"truncated": 0.0}


def test_without_an_eos_token_none_is_added():
    assert tokens(encode(TEXTS, NO_EOS), 0) == NO_EOS(TEXTS[0])["input_ids"]


@pytest.mark.parametrize(
    "tokenizer", [PLAIN, BOS, BOTH, NO_EOS], ids=["plain", "bos", "both", "none"]
)
def test_a_completion_follows_the_prompt_as_the_model_sees_it(tokenizer):
    made = encode(PAIRS, tokenizer)
    for i, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        seen = tokenizer(prompt)["input_ids"]
        seen = seen[:-1] if tokenizer is BOTH else seen
        answer = targets(made, i)
        assert tokens(made, i) == seen + answer
        if tokenizer is not NO_EOS:
            assert answer.pop() == tokenizer.eos_token_id
            assert tokenizer.eos_token_id not in answer
        assert tokenizer.decode(answer) == completion
        whole = encode(PAIRS, tokenizer, answer_only=False)
        assert tokens(whole, i) == tokens(made, i) == targets(whole, i)


def test_a_border_the_tokenizer_merges_across_is_kept():
    together = PLAIN("the cat sat on the mat")["input_ids"]
    alone = PLAIN("the cat ")["input_ids"]
    assert together[: len(alone)] != alone, "the case this test is about"
    assert tokens(encode(PAIRS, PLAIN), 1)[: len(alone)] == alone


def test_a_prompt_may_end_in_the_eos_token_itself():
    made = encode([{"prompt": "the cat</s>", "completion": "sat"}], PLAIN)
    assert PLAIN.decode(targets(made, 0)) == "sat</s>"
    assert tokens(made, 0).count(PLAIN.eos_token_id) == 2


@pytest.mark.parametrize("template", [MARKED, UNMARKED], ids=["marked", "unmarked"])
def test_the_targets_of_a_conversation_are_the_assistants_turns(template):
    tokenizer = bpe("bos", template)
    made = encode(TALKS, tokenizer)
    assert tokenizer.decode(targets(made, 0)) == "the cat</s>it ran</s>"
    assert tokenizer.decode(targets(made, 1)) == "the cat</s>"
    for i, record in enumerate(TALKS):
        laid_out = tokenizer.apply_chat_template(record["messages"], return_dict=True)["input_ids"]
        assert tokens(made, i) == laid_out
        assert targets(encode(TALKS, tokenizer, answer_only=False), i) == laid_out


def test_labels_beside_texts_are_those_of_a_classifier():
    records = [{"text": text, "label": i} for i, text in enumerate(TEXTS)]
    made = encode(records, BOS, max_length=4)
    expected = BOS(TEXTS, padding=True, truncation=True, max_length=4, return_tensors="pt")
    batch = made.batch([0, 1, 2])
    assert batch["labels"].tolist() == [0, 1, 2]
    for key in ("input_ids", "attention_mask"):
        assert batch[key].tolist() == expected[key].tolist()
    assert made.facts["truncated"] == sum(len(BOS(text)["input_ids"]) > 4 for text in TEXTS)


def frame(records):
    return pd.DataFrame(records, index=[f"row {i}" for i in range(len(records))])


CONTAINERS = {
    "list": list,
    "columns": lambda records: {key: [record[key] for record in records] for key in records[0]},
    "pandas": frame,
    "series": lambda records: pd.Series(records, index=[f"row {i}" for i in range(len(records))]),
    "hugging face": datasets.Dataset.from_list,
    "as torch": lambda records: datasets.Dataset.from_list(records).with_format("torch"),
    "transformed": lambda r: datasets.Dataset.from_list(r).with_transform(lambda batch: batch),
    "other keys": lambda records: [{**record, "id": "never read"} for record in records],
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize(
    "records", [[{"text": text} for text in TEXTS], PAIRS, TALKS], ids=["text", "pairs", "talks"]
)
def test_the_container_makes_no_difference(container, records):
    tokenizer = bpe("bos", UNMARKED)
    given = container(records)
    made = encode(given, tokenizer)
    assert made.content(ALL) == encode(records, tokenizer).content(ALL)
    if isinstance(given, pd.DataFrame | pd.Series):
        assert made.index.tolist() == given.index.tolist()


def test_names_of_records():
    made = encode(PAIRS, PLAIN).content(ALL)
    asked = [{"question": r["prompt"], "answer": r["completion"]} for r in PAIRS]
    assert encode(asked, PLAIN).content(ALL) == made
    texts = encode(TEXTS, PLAIN)
    assert encode([{"text": text} for text in TEXTS], PLAIN).content(ALL) == texts.content(ALL)
    assert encode(pd.Series(TEXTS), PLAIN).content(ALL) == texts.content(ALL)


@pytest.mark.parametrize("stated", [True, False], ids=["the tokenizer's", "given"])
def test_what_is_too_long_loses_its_end_and_is_counted(stated):
    tokenizer = bpe("bos", **({"model_max_length": 6} if stated else {}))
    made = encode(PAIRS, tokenizer, max_length=None if stated else 6)
    whole = encode(PAIRS, bpe("bos"))
    over = [i for i in range(3) if whole.lengths[i] > 6]
    assert over and made.facts == {"truncated": float(len(over))}
    for i in range(3):
        assert tokens(made, i) == tokens(whole, i)[:6]


def test_more_records_are_encoded_in_the_same_way():
    made = encode(TEXTS, BOS, max_length=4)
    queries = as_examples(["the mat on the cat"], encode=made[1:].encoder)
    assert queries.content(ALL) == encode(["the mat on the cat"], BOS, 4).content(ALL)
    assert as_examples(PAIRS, encode=encode(PAIRS, BOS, answer_only=False).encoder).content(
        ALL
    ) == encode(PAIRS, BOS, answer_only=False).content(ALL)


def test_batches_are_padded_by_the_tokenizers_pad_token():
    tokenizer = bpe(pad_token=None)
    batch = encode(["the cat", "the cat sat on the mat"], tokenizer).batch([0, 1])
    assert batch["input_ids"][0, -1] == tokenizer.eos_token_id
    assert encode(TEXTS, bpe(pad_token="</s>")).pad["input_ids"] == 2


ALTERNATING = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}"
# Earlier turns are laid out anew when a later one is there.
SHIFTING = "{{ messages | length }}" + UNMARKED

REFUSED = {
    "other keys": ([{"words": "a"}], PLAIN, {}, r"got the keys \['words'\]"),
    "a text": ("a text", PLAIN, {}, "got a str"),
    "no records": ([], PLAIN, {}, "at least one record"),
    "one record": ({"text": "the cat"}, PLAIN, {}, "put it into a list"),
    "a number": ([{"text": "a"}, {"text": 3}], PLAIN, {}, r"position 1\) has another kind.*int"),
    "chat as prompt": ([{"prompt": TALK[:1], "completion": TALK[1:2]}], PLAIN, {}, "key messages"),
    "mixed": (["a text", {"text": "a"}], PLAIN, {}, "position 1.*dict"),
    "uneven columns": ({"prompt": ["a", "b"], "completion": ["c"]}, PLAIN, {}, "of the 2 records"),
    "named labels": ([{"text": "a", "label": "good"}], PLAIN, {}, "numbers in 'labels'"),
    "all prompt": (frame(PAIRS), PLAIN, {"max_length": 2},
                   r"first 2 tokens.*position.*'row 0'.*Raise max_length"),
    "no room": (TEXTS, PLAIN, {"max_length": 1}, "max_length must be a whole number from 2"),
    "nothing to say": ([{"prompt": "the cat", "completion": ""}], NO_EOS, {}, "to predict"),
    "empty text": (["the cat", ""], PLAIN, {}, r"position 1\) has none"),
    "no template": (TALKS, PLAIN, {}, "chat template"),
    "no assistant": ([{"messages": TALK[:1]}], bpe(template=UNMARKED), {}, "to predict"),
    "no roles": ([{"messages": [{"text": "a"}]}], bpe(template=UNMARKED), {}, "role and content"),
    "refused by the template": ([{"messages": TALK[1:]}], bpe(template=ALTERNATING + UNMARKED), {},
                                "refuses record 0: user first"),
    "no turns to be seen": (TALKS, bpe(template=SHIFTING), {}, "first 1 messages of record 0"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("records", "tokenizer", "options", "message"), REFUSED.values(), ids=REFUSED
)
def test_what_does_not_fit_is_refused_by_name(records, tokenizer, options, message):
    with pytest.raises(InputError, match=message):
        encode(records, tokenizer, **options)


def test_a_template_that_hides_turns_will_do_without_answer_only():
    made = encode(TALKS, bpe(template=SHIFTING), answer_only=False)
    assert targets(made, 0) == tokens(made, 0)
