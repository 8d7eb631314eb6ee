"""The command `influence order`: what another order of training would have done.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse

from influence.cli import Found
from influence.cli.group import Group
from llm_influence.order.ask_commands import Compare, FindCurriculum, Memorise
from llm_influence.order.record_commands import Record


class Quickstart:
    """`influence order quickstart`: all of it on a tiny model."""

    help = "train a tiny GPT, predict other orders of its training, find a better one, try it"
    example = "influence order quickstart --out pictures"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sentences, "
            "the weights and the orders (default: %(default)s)")  # fmt: skip
        parser.add_argument("--out", default="order-quickstart", metavar="DIR",
                            help="where pictures go (default: %(default)s)")  # fmt: skip
        parser.add_argument("--report", metavar="FILE", help="write a page to look at")

    def run(self, args: argparse.Namespace) -> Found:
        from influence.checks import check_whole
        from llm_influence.order.quickstart import quickstart

        check_whole("--seed", args.seed)
        return quickstart(args.out, args.seed, args.report, progress=not args.quiet)

    def kept(self, args: argparse.Namespace) -> str:
        return "nothing was to be kept; the same command begins anew"


order = Group(
    "what training in another order would have done: record, predict, search, verify",
    {
        "record": Record(),
        "curriculum": FindCurriculum(),
        "memorisation": Memorise(),
        "compare": Compare(),
        "quickstart": Quickstart(),
    },
)
