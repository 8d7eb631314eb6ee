"""The commands `influence explain` and `influence quickstart`.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.cli import Found
from influence.cli.quickstart import Quickstart
from tree_influence.command_input import Given, add_input_arguments, read_input
from tree_influence.methods import known_methods

if TYPE_CHECKING:
    from influence.report import Page
    from influence.top import TopInfluence

REMARKS = (
    "Influence is the change of a query's loss if a training row had been left out. Positive: a "
    "helpful row, without it the prediction gets worse. Negative: a harmful one. Which method to "
    "believe for your model: influence compare."
)


class Explain:
    """`influence explain`: a saved model and tables in, ranked training rows out."""

    help = "rank the training rows behind a saved tree model's predictions"
    example = (
        "influence explain model.txt --train train.csv --target y --queries new.csv --out result"
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = REMARKS
        add = parser.add_argument
        add_input_arguments(parser)
        methods = [name for name, method in known_methods().items() if method.per_row == 0]
        add("--method", choices=methods, default="leaf_influence", metavar="METHOD",
            help=f"one of {', '.join(methods)} (default: %(default)s); averaged_split is the most "
            "faithful, and trains 20 models on halves of the rows")  # fmt: skip
        add("--top", type=int, default=10, metavar="K", help="rows to show of each side "
            "(default: %(default)s)")  # fmt: skip
        add("--out", metavar="DIR", help="write CSV, Parquet, the result and its provenance here")
        add("--report", metavar="FILE", help="write a page to look at, report.html say")
        add("--refits", type=int, default=20, metavar="N", help="queries and suspect rows of the "
            "page that are worked out again without rows (default: %(default)s)")  # fmt: skip

    def run(self, args: argparse.Namespace) -> Found:
        from influence.checks import check_whole
        from influence.report.page import check_writable
        from influence.tables import labelled, make_folder, ranking
        from tree_influence.tables import side_by_side

        check_whole("--top", args.top, least=1)
        check_whole("--refits", args.refits)
        if args.out is not None:
            make_folder(args.out)
        if args.report is not None:
            check_writable(args.report)
        given = read_input(args)
        shown = not args.quiet
        estimator = known_methods()[args.method].estimator(seed=0).fit(given.run, progress=shown)
        page, top = _answered(estimator, given, args)
        run = {**top.provenance.run, **given.stated}
        top = replace(top, provenance=replace(top.provenance, run=run))
        stated = top.provenance
        lines = [stated.summary(), f"sign: {stated.sign}", *given.stated.values()]
        return Found(
            "\n".join([side_by_side(top, given.facts), *lines]),
            {
                "provenance": asdict(stated),
                "queries": labelled(given.facts),
                "results": ranking(top),
            },
            lambda: _written(args, top, given.facts, page),
        )

    def kept(self, args: argparse.Namespace) -> str:
        return "no result was written; the same command begins anew"


def _answered(
    estimator: Any, given: Given, args: argparse.Namespace
) -> "tuple[Page | None, TopInfluence]":
    """The page, where one is asked for, and the ranking."""
    shown = not args.quiet
    if args.report is None:
        return None, estimator.explain_top(given.X, given.y, k=args.top, progress=shown)
    from tree_influence.reporting import report_page

    return report_page(
        estimator, given.X, given.y, k=args.top, refits=args.refits, has_truth=given.has_truth,
        progress=shown,
    )  # fmt: skip


def _written(
    args: argparse.Namespace, top: "TopInfluence", facts: Any, page: "Page | None"
) -> list[Path]:
    from influence.tables import write_results

    files = [] if args.out is None else write_results(args.out, top, facts)
    if page is None:
        return files

    from influence.report import write

    return [*files, write(args.report, page)]


explain = Explain()
quickstart = Quickstart(
    "train on scikit-learn's breast cancer data, find the rows behind its errors",
    "influence quickstart --seed 1",
    "tree_influence.quickstart",
    "the split and of the flipped labels",
)
