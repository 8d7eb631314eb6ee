"""Made-up facts about made-up people, for attribution with known sources.

    facts = made_up_facts(seed=0)
    facts.questions[0]      # {"prompt": "Where was Ada Lund born?", "completion": " Velmora"}
    facts.sources[0]        # positions of the documents that state it
    tokenizer = word_tokenizer(facts.texts())

A person is the subject of several facts, several people share a value and a first name, a question
shares few words with most statements of its fact, and distractors name people and values without
stating anything: finding the sources takes more than matching words.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fact_phrases import ABOUT_PEOPLE, ABOUT_VALUES, RELATIONS, Relation

Pair = dict[str, str]

CONSONANTS = "b d f g h k l m n p r s t v z br dr gr kl pl st tr"
VOWELS = "a e i o u"
MOST_PHRASINGS = min(len(relation.statements) for relation in RELATIONS)
PEOPLE_PER_VALUE = 3  # on average, so that a value does not give its person away


@dataclass(frozen=True, eq=False)
class Facts:
    """Documents, questions about them, and where the answers stand.

    Attributes:
        documents: One sentence each, in random order: statements of facts, and distractors.
        questions: Of the people nobody practised with, one for each fact: its "prompt", and as
            "completion" the true answer after a space.
        sources: For each question, the positions of the documents that state the true fact,
            ascending; one for each phrasing.
        practice: Questions with true answers about the other people, from which a model learns
            what a question is. No source of a question is among them.
        wrong: Positions of the documents that state a false value, ascending.
        contradicted: Positions of the questions that one of these documents answers falsely.
    """

    documents: list[str]
    questions: list[Pair]
    sources: list[list[int]]
    practice: list[Pair]
    wrong: list[int]
    contradicted: list[int]

    def texts(self) -> list[str]:
        """Everything with a word in it: what a vocabulary is built of."""
        pairs = [*self.practice, *self.questions]
        return [*self.documents, *(pair["prompt"] + pair["completion"] for pair in pairs)]


@dataclass(frozen=True)
class _Fact:
    person: str
    relation: Relation
    value: str
    false: str | None  # a value that one more document claims


def made_up_facts(
    n_people: int = 30,
    *,
    seed: int,
    n_relations: int = 5,
    phrasings: int = 4,
    n_distractors: int = 60,
    practised: float = 0.7,
    wrong: float = 0.0,
) -> Facts:
    """Draws a corpus.

    Every person has one value of every relation, stated by `phrasings` documents in as many ways.

    Args:
        n_people: Number of people, at least 4.
        seed: Seed of everything drawn; the same arguments give the same corpus.
        n_relations: Number of relations, 1 to 8.
        phrasings: Documents that state each fact, 1 to 6.
        n_distractors: Documents that name people and values and state no fact.
        practised: Share of the people whose questions are for practice, in (0, 1).
        wrong: Share of the facts that one more document contradicts, 0 to 1; such a fact needs a
            phrasing of its own, so at most 5 can state the truth.

    Raises:
        ValueError: An argument outside its range.
    """
    _check(n_people, n_relations, phrasings, n_distractors, practised, wrong)
    rng = np.random.default_rng(seed)
    people = _people(n_people, rng)
    facts = _draw(people, RELATIONS[:n_relations], wrong, rng)
    documents: list[tuple[str, int, bool]] = []  # text, its fact or -1, whether it is true
    for k, fact in enumerate(facts):
        chosen = rng.permutation(len(fact.relation.statements))
        for i in chosen[:phrasings]:
            documents.append((_said(fact.relation.statements[i], fact.person, fact.value), k, True))
        if fact.false is not None:
            text = fact.relation.statements[chosen[phrasings]]
            documents.append((_said(text, fact.person, fact.false), k, False))
    documents += [(text, -1, True) for text in _distractors(n_distractors, facts, rng)]
    documents = [documents[i] for i in rng.permutation(len(documents))]

    practising = set(people[: min(max(round(practised * n_people), 1), n_people - 1)])
    asked = [k for k, fact in enumerate(facts) if fact.person not in practising]
    stating: dict[int, list[int]] = {k: [] for k in range(len(facts))}
    for i, (_, k, true) in enumerate(documents):
        if k >= 0 and true:
            stating[k].append(i)
    return Facts(
        documents=[text for text, _, _ in documents],
        questions=[
            _asked(facts[k], int(rng.integers(len(facts[k].relation.questions)))) for k in asked
        ],
        sources=[stating[k] for k in asked],
        practice=[
            _asked(fact, i)
            for fact in facts
            if fact.person in practising
            for i in range(len(fact.relation.questions))
        ],
        wrong=[i for i, (_, _, true) in enumerate(documents) if not true],
        contradicted=[j for j, k in enumerate(asked) if facts[k].false is not None],
    )


def word_tokenizer(texts: Iterable[str]) -> Any:
    """A tokenizer whose tokens are the words and punctuation marks of these texts.

    Words are numbered in sorted order, so the same texts give the same tokenizer. A word that is
    not among them becomes the unknown token. No space is a token: a text and its parts, split at a
    space, have the same ids.

    Returns:
        A `transformers.PreTrainedTokenizerFast` with padding, unknown and end-of-text tokens, which
        have the ids 0, 1 and 2.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Whitespace()
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    special = ["<pad>", "<unk>", "<end>"]
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    )


def _check(
    n_people: int, n_relations: int, phrasings: int, n_distractors: int, practised: float,
    wrong: float,
) -> None:  # fmt: skip
    most = MOST_PHRASINGS - (wrong > 0)
    allowed = {
        f"n_people at least 4, got {n_people}": n_people >= 4,
        f"n_relations 1 to {len(RELATIONS)}, got {n_relations}": 1 <= n_relations <= len(RELATIONS),
        f"phrasings 1 to {most}, got {phrasings}": 1 <= phrasings <= most,
        f"n_distractors at least 0, got {n_distractors}": n_distractors >= 0,
        f"practised in (0, 1), got {practised}": 0 < practised < 1,
        f"wrong 0 to 1, got {wrong}": 0 <= wrong <= 1,
    }
    broken = [text for text, holds in allowed.items() if not holds]
    if broken:
        raise ValueError(f"Expected {'; '.join(broken)}.")


def _names(n: int, n_syllables: int, ending: list[str], rng: np.random.Generator) -> list[str]:
    """Distinct made-up names, capitalised."""
    found: dict[str, None] = {}
    while len(found) < n:
        syllables = [
            rng.choice(CONSONANTS.split()) + rng.choice(VOWELS.split()) for _ in range(n_syllables)
        ]
        found["".join(syllables).capitalize() + str(rng.choice(ending))] = None
    return list(found)


def _people(n: int, rng: np.random.Generator) -> list[str]:
    """Names: first names are shared, last names are not."""
    first = _names(max(2, n // PEOPLE_PER_VALUE), 2, [""], rng)
    last = _names(n, 1, ["lund", "mark", "sen", "wick", "dorn", "ley"], rng)
    return [f"{first[i % len(first)]} {name}" for i, name in enumerate(last)]


def _draw(
    people: list[str], relations: tuple[Relation, ...], wrong: float, rng: np.random.Generator
) -> list[_Fact]:
    """One fact for every person and relation, by person."""
    n_values = max(3, len(people) // PEOPLE_PER_VALUE)
    places = _names(n_values, 2, ["mora", "heim", "stad", "via", "port"], rng)
    drawn = []
    for relation in relations:
        pool = {"place": places, "person": people}.get(relation.kind) or relation.values.split()
        pool = [str(value) for value in rng.permutation(pool)[:n_values]]
        for person in people:
            others = [value for value in pool if value != person]
            value, false = rng.choice(others, 2, replace=False)
            drawn.append((person, relation, str(value), str(false)))
    contradicted = set(rng.permutation(len(drawn))[: round(wrong * len(drawn))].tolist())
    return [
        _Fact(person, relation, value, false if k in contradicted else None)
        for k, (person, relation, value, false) in enumerate(drawn)
    ]


def _distractors(n: int, facts: list[_Fact], rng: np.random.Generator) -> list[str]:
    """Sentences about a person, or a person and a place or value, that state no fact."""
    texts = []
    for i in range(n):
        one, other = (facts[k] for k in rng.choice(len(facts), 2, replace=False))
        templates = ABOUT_VALUES[other.relation.kind] if i % 2 else ABOUT_PEOPLE
        texts.append(_said(str(rng.choice(templates)), one.person, other.value))
    return texts


def _said(template: str, person: str, value: str) -> str:
    return template.format(person=person, value=value)


def _asked(fact: _Fact, phrasing: int) -> Pair:
    prompt = _said(fact.relation.questions[phrasing], fact.person, "")
    return {"prompt": prompt, "completion": f" {fact.value}"}
