"""`report`: a page about what a language model says and the training examples behind it."""

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.checks import check_whole
from influence.errors import InputError
from influence.progress import track
from influence.report import Answer, Gathered, Page, Rows, Suspects, gather, write
from influence.report.gather import asked_of, blocks_of
from influence.report.page import check_writable
from influence.top import TopInfluence
from llm_influence.by_rows import ByRows
from llm_influence.rerank import reranked
from llm_influence.run import CheckpointRun
from llm_influence.shown_texts import Reader, ShownText, reader_of, shown_text
from llm_influence.tokens import TokenExamples

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
Pieces = tuple[dict[int, Floats], dict[int, Floats]]  # by training row: of its text, of the query

TITLE = "Which training examples made this model say that?"
SELF = (
    "Training examples by self-influence: what leaving one out does to its own loss. Large values "
    "mark what the model could not have learned from the others: wrong statements, and rare ones."
)
TOTAL = "Training examples by total influence."
READING = (
    "«total»: influence added over all queries; negative examples made them worse. «loss»: the "
    "example's own, of the trained model."
)
SAME = 1e-5  # self-influence that varies by less of its size tells nothing


def report(
    path: str | os.PathLike[str],
    estimator: Any,
    queries: Any,
    *,
    tokenizer: Any,
    k: int = 5,
    max_queries: int = 50,
    max_rows: int = 300,
    tokens: bool = True,
    rerank: int | None = None,
    title: str = TITLE,
    progress: bool = True,
) -> TopInfluence:
    """Writes a page that shows queries, the training examples behind them, and suspect examples.

        report("report.html", TracIn().fit(run), questions, tokenizer=tokenizer)

    One HTML file that opens offline: for each query its text and loss, its proponents and
    opponents with the tokens that act, and how influence adds up; the training examples by
    self-influence and total influence.

    Cost: explaining all queries once, their losses, self-influence, and with `tokens` at each
    checkpoint a pass over every shown query and each of its 2 k examples.

    Args:
        path: The file; one that exists is replaced.
        estimator: A fitted estimator that has `explain`.
        queries: Query examples as the run takes them.
        tokenizer: The model's tokenizer; or a function from a list of token ids to a list of one
            text for each.
        k: Examples of each side to show.
        max_queries: Queries to show, those of largest loss; sums are over all.
        max_rows: Training examples to list besides those shown with queries.
        tokens: Show which tokens act, where the estimator tells.
        rerank: Rank so many of each side again by their whole gradients, as `reranked` does.
        title: The page's heading.
        progress: Show a bar on long work.

    Returns:
        The strongest examples of all queries, as `explain_top` gives them.

    Raises:
        InputError: No queries, examples without tokens, or an estimator without `explain`.
        MissingPackageError: jinja2 or plotly is not installed.
        StorageError: The file cannot be written; found out before any work.
    """
    check_writable(path)
    page, top = report_page(
        estimator, queries, tokenizer=tokenizer, k=k, max_queries=max_queries, max_rows=max_rows,
        tokens=tokens, rerank=rerank, title=title, progress=progress,
    )  # fmt: skip
    write(path, page)
    return top


def report_page(
    estimator: Any,
    queries: Any,
    *,
    tokenizer: Any,
    k: int = 5,
    max_queries: int = 50,
    max_rows: int = 300,
    tokens: bool = True,
    rerank: int | None = None,
    title: str = TITLE,
    progress: bool = True,
) -> tuple[Page, TopInfluence]:
    """What `report` writes, and what it returns; arguments as there."""
    for name, value, least in (
        ("k", k, 1), ("max_queries", max_queries, 1), ("max_rows", max_rows, 0),
        ("rerank", k if rerank is None else rerank, k),
    ):  # fmt: skip
        check_whole(name, value, least=least)
    reader = reader_of(tokenizer)
    run, asked = asked_of(estimator, [queries], CheckpointRun, "llm_influence")
    if not isinstance(asked, TokenExamples) or not isinstance(run.examples, TokenExamples):
        raise InputError(
            "Expected examples with input_ids, which can be shown as texts, got examples of "
            "another kind; explain_top ranks these."
        )
    losses = run.losses(asked)
    found = gather(
        blocks_of(estimator, [asked], progress), run.train_index, asked.index,
        estimator.provenance, shown=np.argsort(-losses, kind="stable")[:max_queries],
        k=k if rerank is None else rerank,
    )  # fmt: skip
    if rerank is not None:
        top = reranked(estimator, found.top, asked, min(k, run.n_train), progress=progress)
        found = replace(found, top=top)
    made = _Made(estimator, run, asked, losses, found, reader, tokens, progress)
    return made.page(title, max_rows), found.top


@dataclass(frozen=True, eq=False)
class _Made:
    """What a page is made of.

    Attributes:
        estimator: The fitted estimator.
        run: The traced model.
        asked: All queries.
        losses: Their losses.
        found: Influence on them.
        reader: What makes text of tokens.
        tokens: Whether tokens are to be highlighted.
        progress: Show a bar.
    """

    estimator: Any
    run: CheckpointRun
    asked: TokenExamples
    losses: Floats
    found: Gathered
    reader: Reader
    tokens: bool
    progress: bool

    def page(self, title: str, max_rows: int) -> Page:
        run, found = self.run, self.found
        own, no_own = self._self_influence()
        suspects = found.suspects(own, max_rows)
        pool = np.union1d(found.rows, suspects)
        train = self._texts(run.train_queries(), pool, "training texts")
        asked = self._texts(self.asked, found.shown, "queries' texts")
        notes = (found.limit, no_own, self._no_tokens(), *_cut("queries", asked),
                 *_cut("training examples", train))  # fmt: skip
        return Page(
            title,
            self._about(),
            [note for note in notes if note],
            queries=Rows(
                self.asked.index[found.shown],
                self._facts(self.asked, found.shown, self.losses[found.shown]),
                texts=[one.text for one in asked],
            ),
            answers=self._answers(pool, asked, train),
            train=Rows(
                run.train_index[pool], self._row_facts(pool, own),
                texts=[one.text for one in train],
            ),
            ranks=found.ranks.tolist(),
            suspects=Suspects(
                np.searchsorted(pool, suspects).tolist(),
                f"{TOTAL if own is None else SELF} {READING}",
            ),
        )  # fmt: skip

    def _self_influence(self) -> tuple[Floats | None, str]:
        """Of every training example, or why there is none."""
        name = type(self.estimator).__name__
        if not isinstance(self.estimator, ByRows):
            return None, (
                f"No self-influence: {name} does not tell what an example taught the model, "
                "TracIn() does. Examples are listed by total influence."
            )
        own = self.estimator.self_influence(progress=self.progress)
        if np.ptp(own) <= SAME * np.abs(own).max():
            return None, (
                f"No self-influence: by {name} it is the same for every example, as all rows have "
                "the same length. Examples are listed by total influence."
            )
        return own, ""

    def _no_tokens(self) -> str:
        """Why no tokens are highlighted, or that they are of other values."""
        if not self.tokens:
            return "No tokens are highlighted: tokens=False."
        if not isinstance(self.estimator, ByRows):
            name = type(self.estimator).__name__
            return f"No tokens are highlighted: {name} values whole examples; TracIn() tells."
        if "candidates" in self.found.top.provenance.run:
            return "Tokens, sums and totals are of the values before examples were ranked again."
        return ""

    def _about(self) -> dict[str, Any]:
        facts = {
            "training examples": self.run.n_train,
            "queries": self.asked.n_queries,
            "checkpoints": len(self.run.checkpoints),
        }
        return self.found.about(facts)

    def _texts(self, examples: Any, rows: Positions, what: str) -> list[ShownText]:
        tracked = track(rows.tolist(), what, len(rows), self.progress)
        return [shown_text(examples, row, self.reader) for row in tracked]

    def _facts(self, examples: TokenExamples, rows: Positions, losses: Floats) -> pd.DataFrame:
        facts: dict[str, Any] = {"loss": losses}
        labels = examples.per_example.get("labels")
        return pd.DataFrame(facts if labels is None else {"label": labels[rows], **facts})

    def _row_facts(self, pool: Positions, own: Floats | None) -> pd.DataFrame:
        examples: Any = self.run.train_queries()
        facts = self._facts(examples, pool, self.run.losses(examples.take(pool)))
        if own is not None:
            facts["self-influence"] = own[pool]
        return facts.assign(total=self.found.total[pool])

    def _answers(
        self, pool: Positions, asked: list[ShownText], train: list[ShownText]
    ) -> list[Answer]:
        found, answers = self.found, []
        listed = zip(found.shown.tolist(), asked, strict=True)
        for at, (query, text) in enumerate(track(listed, "tokens", len(asked), self.progress)):
            helpful, harmful = (
                [(int(np.searchsorted(pool, row)), value) for row, value in found.side(query, sign)]
                for sign in (1.0, -1.0)
            )
            places = [place for place, _ in helpful + harmful]
            sums = found.helpful_sums[at], found.harmful_sums[at]
            pieces, on_query = self._pieces(query, text, pool, {i: train[i] for i in places})
            answers.append(Answer(helpful, harmful, *sums, pieces=pieces, on_query=on_query))
        return answers

    def _pieces(
        self, query: int, text: ShownText, pool: Positions, train: dict[int, ShownText]
    ) -> Pieces:
        """Influence by piece, by position in the page's training examples."""
        if not (self.tokens and train and isinstance(self.estimator, ByRows)):
            return {}, {}
        told = self.estimator.tokens(self.asked[query : query + 1], pool[list(train)].tolist())
        return (
            {
                i: own.by_piece(values)
                for (i, own), values in zip(train.items(), told.of_train, strict=True)
            },
            {i: text.by_piece(values) for i, values in zip(train, told.of_query, strict=True)},
        )


def _cut(what: str, texts: list[ShownText]) -> list[str]:
    """A line for how many texts are shown in part; none where none is."""
    n_cut = sum(one.text.before + one.text.after > 0 for one in texts)
    if not n_cut:
        return []
    return [f"{n_cut:,} of {len(texts):,} {what} are longer than what is shown of a text."]
