"""`BM25`: words that a training example and a query share, without any model."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor
from influence.checks import check_whole
from influence.errors import InputError, MissingPackageError
from llm_influence.examples import Examples
from llm_influence.of_networks import OfNetworks
from llm_influence.run import CheckpointRun
from llm_influence.tokens import TokenExamples

Word = tuple[int, ...]


class BM25(OfNetworks, Attributor[CheckpointRun, Examples]):
    """Okapi BM25: rare words that both hold count most, and repeating one counts less each time.

        values[i, q] = sum_{w in q} idf(w) f_iw (k1 + 1) / (f_iw + k1 (1 - b + b |i| / mean |.|))
        idf(w) = ln(1 + (n - n_w + 1/2) / (n_w + 1/2))

    with f_iw how often the training example i holds the word w, |i| how many words it has, n_w how
    many of the n training examples hold w; the sum is over all words of the query, repeated ones as
    often as they occur. Words are token ids, or with `ngram` runs of 1 to `ngram` of them. An
    example is all its tokens: prompts and answers alike, on both sides. Words that no training
    example holds count nothing.

    Sign: positive = similar, never negative: there are no opponents. Unit: similarity (only ranks).
    Cost: fit O(n_tokens ngram), held as one number for each word of each example; a block of
    queries passes over these once. Needs bm25s (extra `llm`).
    Refused where examples have no tokens: those of a loss of your own without input_ids.

    Reference: Robertson, Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009,
    equation 3.15, without the constant factor k1 + 1; there idf has no "1 +", which makes it
    negative for words that more than half of the examples hold.

    Args:
        k1: How slowly the count of a repeated word levels off.
        b: How much long examples are held back: 0 not at all, 1 in full.
        ngram: Longest run of tokens that is a word.
    """

    unit = "similarity"
    _index: Any  # sparse, (n_train, n_words)
    _places: dict[Word, int]  # the column of each word

    def __init__(self, k1: float = 1.5, b: float = 0.75, *, ngram: int = 1) -> None:
        for name, value, most in (("k1", k1, 1000), ("b", b, 1)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and 0 <= value <= most):
                raise InputError(f"{name} must be a number from 0 to {most}, got {value!r}.")
        check_whole("ngram", ngram, least=1)
        self.k1, self.b, self.ngram = k1, b, ngram

    def _fit(self, run: CheckpointRun) -> None:
        from scipy.sparse import csc_matrix

        bm25s = _library()
        self._places = {}
        texts = [
            [self._places.setdefault(word, len(self._places)) for word in words]
            for words in self._words(run.examples)
        ]
        # "atire" names the count's term, with its factor k1 + 1; "lucene" the idf.
        model = bm25s.BM25(
            k1=self.k1, b=self.b, method="atire", idf_method="lucene", dtype="float64"
        )
        vocabulary = {place: place for place in self._places.values()}
        model.index((texts, vocabulary), create_empty_token=False, show_progress=False)
        found = model.scores
        whole = csc_matrix(
            (found["data"], found["indices"], found["indptr"]),
            shape=(run.n_train, len(vocabulary)),
        )
        self._index = whole.tocsr()

    def _add_columns(self, queries: Examples, out: NDArray[np.float64]) -> None:
        out += (self._index @ self._counts(queries).T).toarray()

    def _diagonal(self, train: Examples, rows: slice) -> NDArray[np.float64]:
        own = self._index[rows].multiply(self._counts(train))
        return np.asarray(own.sum(axis=1), dtype=np.float64).reshape(-1)

    def _bytes_per_value(self) -> int:
        return 32  # a dense and a sparse block of products

    def _counts(self, queries: Examples) -> Any:
        """How often each query holds each word, sparse, shape (n_queries, n_words)."""
        from scipy.sparse import csr_matrix

        places = [
            [self._places[word] for word in words if word in self._places]
            for words in self._words(queries)
        ]
        query = np.repeat(np.arange(len(places)), [len(held) for held in places])
        column = np.concatenate([np.asarray(held, dtype=np.int64) for held in places])
        shape = (len(places), len(self._places))
        return csr_matrix((np.ones(len(column)), (query, column)), shape=shape)

    def _words(self, examples: Examples) -> Iterable[list[Word]]:
        if not isinstance(examples, TokenExamples):
            raise InputError(
                "BM25 compares tokens: expected examples with input_ids, got examples of another "
                "kind; use EmbeddingSimilarity(embed=...)."
            )
        return (runs(ids, int(self.ngram)) for ids in examples.token_ids())


def runs(ids: Sequence[int], longest: int) -> list[Word]:
    """All runs of 1 to `longest` neighbouring tokens."""
    return [
        tuple(ids[t : t + length])
        for length in range(1, longest + 1)
        for t in range(len(ids) - length + 1)
    ]


def _library() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise MissingPackageError(
            f"BM25 needs bm25s, which cannot be imported ({error}); "
            "pip install 'influence-toolkit[llm]'."
        ) from error
    return bm25s
