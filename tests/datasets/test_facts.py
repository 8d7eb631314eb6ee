"""Made-up facts: the sources are all that states a fact, whatever else names its words."""

import re
from collections import Counter

import pytest

from fact_phrases import ABOUT_PEOPLE, ABOUT_VALUES, RELATIONS
from facts import made_up_facts, word_tokenizer


def pattern(template):
    escaped = re.escape(template).replace(r"\{person\}", "(.+)").replace(r"\{value\}", "(.+)")
    return re.compile(f"^{escaped}$")


STATEMENTS = [(k, pattern(t)) for k, one in enumerate(RELATIONS) for t in one.statements]
QUESTIONS = [(k, pattern(t)) for k, one in enumerate(RELATIONS) for t in one.questions]


def parsed(text, patterns):
    """(relation, person) or (relation, person, value) of a text; None of a distractor."""
    found = {(k, *match.groups()) for k, known in patterns if (match := known.match(text))}
    assert len(found) <= 1, f"two readings of {text!r}"
    return found.pop() if found else None


@pytest.fixture(scope="module")
def facts():
    return made_up_facts(12, seed=3, n_relations=8, phrasings=3, n_distractors=40, wrong=0.25)


def test_sources_are_exactly_the_documents_that_state_the_fact(facts):
    stated = [parsed(text, STATEMENTS) for text in facts.documents]
    assert len(facts.questions) == len(facts.sources) == 4 * 8
    for question, sources in zip(facts.questions, facts.sources, strict=True):
        fact = (*parsed(question["prompt"], QUESTIONS), question["completion"][1:])
        assert sources == [i for i, one in enumerate(stated) if one == fact]
        assert len({facts.documents[i] for i in sources}) == 3


def test_wrong_documents_state_another_value(facts):
    stated = [parsed(text, STATEMENTS) for text in facts.documents]
    claims = Counter(one for one in stated if one is not None)
    per_fact = Counter(one[:2] for one in claims)
    assert len(facts.wrong) == sum(n == 2 for n in per_fact.values()) == round(0.25 * 12 * 8)
    assert all(claims[stated[i]] == 1 for i in facts.wrong), "the truth has three documents"
    asked = [parsed(question["prompt"], QUESTIONS) for question in facts.questions]
    assert facts.contradicted == [j for j, fact in enumerate(asked) if per_fact[fact] == 2]


def test_practice_is_true_and_about_other_people(facts):
    stated = {one for text in facts.documents if (one := parsed(text, STATEMENTS))}
    asked = {parsed(question["prompt"], QUESTIONS)[1] for question in facts.questions}
    for pair in facts.practice:
        fact = (*parsed(pair["prompt"], QUESTIONS), pair["completion"][1:])
        assert fact in stated
        assert fact[1] not in asked


def test_words_alone_do_not_find_the_sources(facts):
    words = [set(re.findall(r"\w+", text)) for text in facts.documents]
    misled = 0
    for question, sources in zip(facts.questions, facts.sources, strict=True):
        asked = set(re.findall(r"\w+", question["prompt"]))
        shared = [len(asked & one) for one in words]
        best_other = max(n for i, n in enumerate(shared) if i not in sources)
        misled += sum(shared[i] <= best_other for i in sources)
    assert misled > len(facts.questions), "at least one source of three should be hard to find"
    values = Counter((k, value) for k, _, value in filter(None, map(_stated, facts.documents)))
    assert max(values.values()) > 3, "people should share values"


def _stated(text):
    return parsed(text, STATEMENTS)


def test_a_seed_fixes_everything():
    first, again, other = (made_up_facts(5, seed=seed, wrong=0.5) for seed in (0, 0, 1))
    assert vars(first) == vars(again)
    assert first.documents != other.documents


def test_a_distractor_is_no_statement():
    listed = [*ABOUT_PEOPLE, *(text for texts in ABOUT_VALUES.values() for text in texts)]
    for text in listed:
        assert parsed(text.format(person="Ada Lund", value="Velmora"), STATEMENTS) is None
    assert set(ABOUT_VALUES) == {relation.kind for relation in RELATIONS}


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_people": 3},
        {"n_relations": 9},
        {"phrasings": 7},
        {"phrasings": 6, "wrong": 0.1},
        {"practised": 1.0},
        {"wrong": 1.5},
        {"n_distractors": -1},
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        made_up_facts(**{"seed": 0, **wrong})


def test_a_tokenizer_has_every_word_and_splits_at_spaces(facts):
    pytest.importorskip("transformers")
    tokenizer = word_tokenizer(facts.texts())
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.get_vocab() == word_tokenizer(reversed(facts.texts())).get_vocab()
    for pair in facts.questions:
        parts = [tokenizer(pair[part])["input_ids"] for part in ("prompt", "completion")]
        assert parts[0] + parts[1] == tokenizer(pair["prompt"] + pair["completion"])["input_ids"]
        assert 1 not in parts[0] + parts[1]
        assert tokenizer.decode(parts[1]) == pair["completion"].strip()
    assert tokenizer("unheard")["input_ids"] == [1]
