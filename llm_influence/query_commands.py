"""The command `influence llm query`: which training examples are behind what a model says.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from influence.cli import Found
from influence.errors import InputError
from llm_influence.build_record import RECORD, BuildRecord, check_fingerprint, read_record
from llm_influence.methods import estimator_of

if TYPE_CHECKING:
    import pandas as pd

    from influence.report import Page
    from influence.top import TopInfluence
    from llm_influence.by_rows import ByRows
    from llm_influence.command_input import Given
    from llm_influence.examples import Examples
    from llm_influence.store import Store

REMARKS = (
    "A query is an example whose loss is explained: what the model said, as a record with the "
    "answer in it. Helpful examples are those whose absence would raise that loss (influence above "
    "0), harmful ones would lower it. Values are on a scale only if the store was built with rates "
    "and without --metric adam, --whiten and --normalise; the unit is printed."
)
WIDTH = 100  # characters of a line
SHOWN_TEXT = 70  # characters
SHOWN_TOKENS = 5


class Query:
    """`influence llm query`: queries in, ranked training examples out."""

    help = "rank the training examples behind what a language model says"
    example = "influence llm query --store rows --queries asked.jsonl --top 5 --tokens --out result"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = REMARKS
        add = parser.add_argument
        add("--store", required=True, metavar="DIR", help="what `influence llm build` made")
        add("--queries", required=True, metavar="FILE", help="examples to explain, of the kinds "
            "that build reads")  # fmt: skip
        add("--id", metavar="KEY", help="key that names the queries (default: their position, "
            "from 0)")  # fmt: skip
        add("--top", type=int, default=10, metavar="K", help="training examples to show of each "
            "side (default: %(default)s)")  # fmt: skip
        add("--rerank", type=int, metavar="N", help="rank the N strongest of each side again by "
            "their whole gradients; not of a store with --whiten")  # fmt: skip
        add("--tokens", action="store_true", help="show which tokens of the training examples act")
        add("--device", metavar="NAME", help="where passes run (default: cuda where there is one, "
            "else cpu)")  # fmt: skip
        add("--out", metavar="DIR", help="write CSV, Parquet, the result and its provenance here")
        add("--report", metavar="FILE", help="write a page to look at, report.html say")

    def run(self, args: argparse.Namespace) -> Found:
        _check(args)
        record = read_record(Path(args.store) / RECORD)

        from influence.progress import track
        from influence.report.page import check_writable
        from influence.tables import make_folder

        if args.out is not None:
            make_folder(args.out)
        if args.report is not None:
            check_writable(args.report)
        asked = _ask(args, record)
        n = asked.queries.n_queries
        parts = [
            asked.part(query, args.top, args.tokens)
            for query in track(range(n), "tokens", n, args.tokens and not args.quiet)
        ]
        tokens = [frame for _, frames in parts for frame in frames]
        return Found(
            "\n".join([*(text for text, _ in parts), _about(asked)]),
            _document(asked, tokens),
            lambda: _write(args, asked, tokens),
        )

    def kept(self, args: argparse.Namespace) -> str:
        return (
            "no result was written; what is built of the store is kept; the same command asks again"
        )


@dataclass(frozen=True, eq=False)
class _Asked:
    """Queries with their answer.

    Attributes:
        given: The traced model.
        estimator: The fitted estimator.
        queries: The queries.
        top: Their strongest training examples.
        facts: What is known of each query: loss and text.
        page: The page, where one is asked for.
    """

    given: "Given"
    estimator: "ByRows"
    queries: "Examples"
    top: "TopInfluence"
    facts: "pd.DataFrame"
    page: "Page | None"

    def part(self, query: int, k: int, tokens: bool) -> "tuple[str, list[pd.DataFrame]]":
        """One query's table, and the influence of tokens where it is asked for."""
        facts = self.facts.iloc[query]
        label = self.top.query_index[query]
        lines, frames = [f"query {label} (loss {facts['loss']:.4g}): {facts['text']}"], []
        for side, sign in (("helpful", 1.0), ("harmful", -1.0)):
            ranked = self.top.side(query, sign)[:k]
            lines.append(f"{'':>4} {'influence':>13}  {side} example{'' if ranked else ': none'}")
            acting = self._tokens(query, [row for row, _ in ranked]) if tokens and ranked else []
            for rank, (row, influence) in enumerate(ranked, 1):
                text = short(self.given, self.given.run.examples, row)
                name = self.top.train_index[row]
                lines.append(f"{rank:>4} {influence:>+13.4g}  {name}: {text}")
                if acting:
                    lines.append(f"{'':>20}{_strongest(acting[rank - 1])}")
            frames += acting
        return "\n".join([*lines, ""]), frames

    def _tokens(self, query: int, rows: list[int]) -> "list[pd.DataFrame]":
        """For each training example its tokens with their influence, in their order."""
        import pandas as pd

        found = self.estimator.tokens(self.queries[query : query + 1], rows)
        frames = []
        for row, influence in zip(rows, found.of_train, strict=True):
            ids = _ids(self.given.run.examples, row)
            frames.append(
                pd.DataFrame(
                    {
                        "query": self.top.query_index[query],
                        "train": self.top.train_index[row],
                        "token": range(len(ids)),
                        "text": [self.given.text([token]) for token in ids],
                        "influence": influence,
                    }
                )
            )
        return frames


def short(given: "Given", examples: "Examples", row: int) -> str:
    """The beginning of an example's text, on one line that a terminal can show."""
    text = " ".join(given.text(_ids(examples, row)[:SHOWN_TEXT], special=False).split())
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 3] + "..."


def _about(asked: _Asked) -> str:
    """What the values are, and what was cut."""
    from llm_influence.command_input import told_cut

    stated, length = asked.top.provenance, asked.given.settings.max_length
    lines = [
        *wrap(stated.summary(), WIDTH),
        "helpful, positive: leaving the example out raises the query's loss; harmful, negative: "
        "lowers it",
        *told_cut(asked.queries, "of the queries", length),
    ]
    return "\n".join(lines)


def _check(args: argparse.Namespace) -> None:
    for name in ("top", "rerank"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, got {value}.")
    if args.rerank is not None and args.rerank < args.top:
        raise InputError(
            f"--rerank must be at least --top, got {args.rerank} and {args.top}: what is shown is "
            "taken from what is ranked again."
        )


def _ask(args: argparse.Namespace, record: BuildRecord) -> _Asked:
    """Reads everything, checks that it is what the store was built from, and answers."""
    import pandas as pd

    from llm_influence.command_input import read_input
    from llm_influence.records import read_records
    from llm_influence.store_at import StoreAt
    from llm_influence.torchrun import device_of

    progress = not args.quiet
    records = read_records(args.queries, args.id)
    settings = record.located()
    given = read_input(settings, device_of(args.device), progress)
    check_fingerprint(record, given.fingerprint)
    queries = given.run.queries(given.examples(records))
    kept = StoreAt(args.store, settings.store_dtype, _say_missing if progress else None)
    estimator = estimator_of(settings).fit(given.run, store=kept, progress=progress)
    page, top = _answered(estimator, given, queries, args)
    stated = {**top.provenance.run, "store_dtype": settings.store_dtype}
    top = replace(top, provenance=replace(top.provenance, run=stated))
    texts = [short(given, queries, query) for query in range(queries.n_queries)]
    facts = pd.DataFrame({"loss": given.run.losses(queries), "text": texts}, queries.index)
    return _Asked(given, estimator, queries, top, facts, page)


def _answered(
    estimator: "ByRows", given: "Given", queries: "Examples", args: argparse.Namespace
) -> "tuple[Page | None, TopInfluence]":
    """The page, where one is asked for, and the ranking."""
    progress = not args.quiet
    if args.report is not None:
        from llm_influence.reporting import report_page

        tokenizer = given.tokenizer or (lambda ids: [f"{token} " for token in ids])
        return report_page(
            estimator, queries, tokenizer=tokenizer, k=args.top, rerank=args.rerank,
            progress=progress,
        )  # fmt: skip
    top = estimator.explain_top(queries, k=args.rerank or args.top, progress=progress)
    if args.rerank is None:
        return None, top
    from llm_influence.rerank import reranked

    k = min(args.top, given.run.n_train)
    return None, reranked(estimator, top, queries, k, progress=progress)


def _say_missing(store: "Store") -> None:
    from llm_influence.build_commands import disk_use

    if any(store.missing(c) for c in range(store.n_checkpoints)):
        print(f"the store is not whole and is built to its end first; {disk_use(store)}")


def _ids(examples: Any, row: int) -> list[int]:
    """The token ids of one example."""
    return examples.batch([row])["input_ids"][0].tolist()


def _strongest(tokens: "pd.DataFrame") -> str:
    """The tokens of largest influence of one example, as text."""
    found = list(zip(tokens["text"], tokens["influence"], strict=True))
    found.sort(key=lambda token: -abs(token[1]))
    return ", ".join(f"{text!r} {value:+.3g}" for text, value in found[:SHOWN_TOKENS])


def _document(asked: _Asked, tokens: "list[pd.DataFrame]") -> dict[str, Any]:
    """What programs read."""
    import pandas as pd

    from influence.tables import labelled, ranking

    run = asked.given.run
    results = ranking(asked.top)
    rows = run.train_index.get_indexer(pd.Index(results["train"]))
    results["text"] = [short(asked.given, run.examples, int(row)) for row in rows]
    return {
        "provenance": asdict(asked.top.provenance),
        "queries": labelled(asked.facts),
        "results": results,
        "tokens": pd.concat(tokens) if tokens else [],
        "n_queries_cut": int(asked.queries.facts.get("truncated", 0)),
    }


def _write(args: argparse.Namespace, asked: _Asked, tokens: "list[pd.DataFrame]") -> list[Path]:
    """Writes the result, the influence of tokens and the page, where they are asked for."""
    import pandas as pd

    from influence.report import write
    from influence.tables import together, write_results

    written = []
    if args.out is not None:
        written += write_results(args.out, asked.top, asked.facts)
        if tokens:
            with together(args.out) as part:
                pd.concat(tokens).to_csv(part / "tokens.csv", index=False)
            written.append(Path(args.out) / "tokens.csv")
    return written if asked.page is None else [*written, write(args.report, asked.page)]
