"""The command `influence llm`, made of `build`, `query` and `quickstart`.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse

from influence.cli.group import Group
from llm_influence.build_commands import Build
from llm_influence.query_commands import Query


class Quickstart:
    """`influence llm quickstart`: the main job on made-up facts."""

    help = "train a tiny GPT on made-up facts, ask it, find the sources of its answers"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")

    def run(self, args: argparse.Namespace) -> int:
        from llm_influence.quickstart import quickstart

        print(quickstart(args.seed))
        return 0


llm = Group(
    "which training examples made this language model say that",
    {"build": Build(), "query": Query(), "quickstart": Quickstart()},
    extra="llm",
    packages=("torch", "transformers", "datasets", "peft", "safetensors", "bm25s"),
)
