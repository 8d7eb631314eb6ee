"""The commands `influence order curriculum`, `memorisation` and `compare`, on a recorded run.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.cli import Found
from influence.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from llm_influence.order.train_file import RecordedFile

METHODS = ("mean_field", "galerkin", "pair", "taylor")
CACHE = "retrained"  # finished retrainings, in the folder of the run


class FindCurriculum:
    """`influence order curriculum`: the best order for some queries, really tried."""

    help = "find the order of batches that is best for some queries, and really train in it"
    example = "influence order curriculum --run run --queries asked.jsonl"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _asked_of(parser)
        _asking(parser)
        _shared(parser)
        _number(parser, "random orders that are trained beside it")
        parser.add_argument("--anyway", action="store_true", help="search although the predictions "
            "agree with real training too little")  # fmt: skip

    def run(self, args: argparse.Namespace) -> Found:
        given, folder = _opened(args)
        examples = given.examples(args.queries)

        from llm_influence.order.curriculum import curriculum
        from llm_influence.order.documents import of_curriculum

        found = curriculum(
            given.run, _queries(examples, args), args.method, n_random=args.n, seed=args.seed,
            anyway=args.anyway, cache=Path(args.run) / CACHE, progress=not args.quiet,
        )  # fmt: skip
        plots, told = [found.plot, found.random.plot], of_curriculum(given.run, found)
        page = _page(args, given, found)
        answer = _found(folder / "curriculum", found, told, plots, page, found.to_frame())
        return _with_cut(answer, given, examples)

    def kept(self, args: argparse.Namespace) -> str:
        return _kept(args)


class Compare:
    """`influence order compare`: predictions beside real training."""

    help = "set predicted effects of random orders against those of really training in them"
    example = "influence order compare --run run --queries asked.jsonl --method galerkin"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _asked_of(parser)
        _asking(parser)
        _shared(parser)
        _number(parser, "random orders that are trained")

    def run(self, args: argparse.Namespace) -> Found:
        given, folder = _opened(args)
        examples = given.examples(args.queries)

        from llm_influence.order.comparison import compare_orders
        from llm_influence.order.documents import of_comparison

        found = compare_orders(
            given.run, _queries(examples, args), args.method, n=args.n, seed=args.seed,
            cache=Path(args.run) / CACHE, progress=not args.quiet,
        )  # fmt: skip
        told = of_comparison(given.run, found)
        page = _page(args, given, found)
        answer = _found(folder / "comparison", found, told, [found.plot], page)
        return _with_cut(answer, given, examples)

    def kept(self, args: argparse.Namespace) -> str:
        return _kept(args)


class Memorise:
    """`influence order memorisation`: what is known at the end, by its place in training."""

    help = "map how well each batch is known after training, by its place"
    example = "influence order memorisation --run run --queries asked.jsonl"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _asked_of(parser)
        parser.add_argument("--queries", metavar="FILE", help="held-out examples: a map of how "
            "their mean loss depends on the place of each batch")  # fmt: skip
        _shared(parser)

    def run(self, args: argparse.Namespace) -> Found:
        given, folder = _opened(args)

        from llm_influence.order.documents import of_memorisation
        from llm_influence.order.memorisation import memorisation

        examples = held_out = None
        if args.queries is not None:
            examples = given.examples(args.queries)
            held_out = [examples.batch(range(examples.n_queries))]
        found = memorisation(
            given.run, args.method, held_out=held_out, seed=args.seed, progress=not args.quiet
        )
        more = [] if held_out is None else [found.plot_generalisation]
        plots, told = [found.plot, found.plot_forgetting, *more], of_memorisation(given.run, found)
        page = _page(args, given, found)
        answer = _found(folder / "memorisation", found, told, plots, page)
        return answer if examples is None else _with_cut(answer, given, examples)

    def kept(self, args: argparse.Namespace) -> str:
        return "no result was written; the same command begins anew"


def _kept(args: argparse.Namespace) -> str:
    folder = Path(args.run) / CACHE
    return f"finished retrainings are kept in {folder}; the same command goes on from there"


def _asked_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, metavar="DIR", help="what `influence order record` "
                        "made")  # fmt: skip


def _shared(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--method", choices=METHODS, default=METHODS[0], help="what predicts (default: "
        "%(default)s)")  # fmt: skip
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of orders and method (default: %(default)s)",
    )
    add("--out", metavar="DIR", help="where results go (default: the folder of the run)")
    add("--report", metavar="FILE", help="write a page to look at, report.html say")


def _asking(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--queries", required=True, metavar="FILE", help="examples whose mean loss is asked about")
    add("--each", action="store_true", help="ask about each example by itself; takes as much "
        "longer as there are examples")  # fmt: skip


def _number(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--n", type=int, default=30, metavar="N", help=f"{what} (default: "
        "%(default)s); finished ones are kept in the folder of the run")  # fmt: skip


def _opened(args: argparse.Namespace) -> "tuple[RecordedFile, Path]":
    """The recorded run and the folder of results."""
    from influence.checks import check_whole

    for name, least in (("seed", 0), ("n", 3)):
        if name in args:
            check_whole(f"--{name}", getattr(args, name), least)
    if not Path(args.run).is_dir():
        raise InputError(
            f"Expected a recorded run in {args.run}, but there is no such folder; make it with "
            "influence order record --model DIR --data train.jsonl --run DIR."
        )

    from influence.report.page import check_writable
    from influence.tables import make_folder
    from llm_influence.order.train_file import RecordedFile

    out = args.run if args.out is None else args.out
    make_folder(out)
    if args.report is not None:
        check_writable(args.report)
    return RecordedFile.load(Path(args.run)), Path(out)


def _queries(examples: Any, args: argparse.Namespace) -> list[Any]:
    """A query of all examples, or one of each."""
    rows = range(examples.n_queries)
    return [examples.batch([i]) for i in rows] if args.each else [examples.batch(rows)]


def _page(args: argparse.Namespace, given: "RecordedFile", found: Any) -> Callable[[], list[Path]]:
    """Writes the page, where one is asked for."""

    def write() -> list[Path]:
        if args.report is None:
            return []

        from llm_influence.order.reporting import order_report

        return [order_report(args.report, found, run=given.run)]

    return write


def _found(
    path: Path,
    found: Any,
    document: Mapping[str, Any],
    plots: list[Any],
    page: Callable[[], list[Path]],
    table: "pd.DataFrame | None" = None,
) -> Found:
    """What was found; to be written: the result, its table, with matplotlib pictures, its page."""
    from influence.errors import MissingPackageError
    from influence.plotting import draw
    from influence.tables import together

    def write() -> list[Path]:
        names = [f"{path.name}.npz"]
        with together(path.parent) as part:
            found.save(part / names[0])
            if table is not None:
                names.append(f"{path.name}.csv")
                table.to_csv(part / names[-1], index_label="order")
            with contextlib.suppress(MissingPackageError):  # pictures are an extra
                draw(part / f"{path.name}.png", plots)
                names.append(f"{path.name}.png")
        return [*(path.parent / name for name in names), *page()]

    return Found(found.summary(), document, write)


def _with_cut(found: Found, given: "RecordedFile", examples: Any) -> Found:
    """The same, with how many of the examples asked about were cut."""
    from llm_influence.command_input import told_cut

    lines = told_cut(examples, "of the queries", given.max_length)
    document = {**found.document, "n_queries_cut": int(examples.facts.get("truncated", 0))}
    return replace(found, text="\n".join([found.text, *lines]), document=document)
