"""The command `influence llm`, made of `build`, `query` and `quickstart`.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse

from influence.cli import Found
from influence.cli.group import Group
from llm_influence.build_commands import Build
from llm_influence.query_commands import Query


class Quickstart:
    """`influence llm quickstart`: the main job on made-up facts."""

    help = "train a tiny GPT on made-up facts, ask it, find the sources of its answers"
    example = "influence llm quickstart --seed 1"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the facts, the "
            "weights and the batches (default: %(default)s)")  # fmt: skip
        parser.add_argument("--report", metavar="FILE", help="write a page to look at")

    def run(self, args: argparse.Namespace) -> Found:
        from llm_influence.quickstart import quickstart

        return quickstart(args.seed, args.report, progress=not args.quiet)

    def kept(self, args: argparse.Namespace) -> str:
        return "nothing was to be kept; the same command begins anew"


llm = Group(
    "which training examples made this language model say that",
    {"build": Build(), "query": Query(), "quickstart": Quickstart()},
)
