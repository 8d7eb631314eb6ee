"""Okapi BM25 word by word, as the formula is written."""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import log

Text = Sequence[Hashable]


def relevance(texts: Sequence[Text], query: Text, k1: float, b: float) -> list[float]:
    """Of each text to a query; repeated words of the query count as often as they occur."""
    n = len(texts)
    mean = sum(len(text) for text in texts) / n
    found = []
    for text in texts:
        counts, total = Counter(text), 0.0
        for word in query:
            holding = sum(word in other for other in texts)
            idf = log(1 + (n - holding + 0.5) / (holding + 0.5))
            f = counts[word]
            total += idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(text) / mean))
        found.append(total)
    return found


def neighbours(text: Sequence[int], longest: int) -> list[tuple[int, ...]]:
    """Every run of 1, 2, ... `longest` tokens."""
    found = []
    for start in range(len(text)):
        for stop in range(start + 1, min(start + longest, len(text)) + 1):
            found.append(tuple(text[start:stop]))
    return found
