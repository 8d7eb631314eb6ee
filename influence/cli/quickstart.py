"""`Quickstart`: the command of a package's main job on data that it makes or comes with.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse
from dataclasses import dataclass
from importlib import import_module

from influence.cli import Found


@dataclass(frozen=True)
class Quickstart:
    """Calls `quickstart(seed, page, progress=...)` of a module, which is imported only then.

    Attributes:
        help: One line for the list of commands.
        example: A call of it.
        module: Name of the module.
        seeds: What its seed is of.
    """

    help: str
    example: str
    module: str
    seeds: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--seed", type=int, default=0, metavar="N", help=f"of {self.seeds} (default: "
            "%(default)s)")  # fmt: skip
        add("--report", metavar="FILE", help="write a page to look at")

    def run(self, args: argparse.Namespace) -> Found:
        from influence.checks import check_whole

        check_whole("--seed", args.seed)
        quickstart = import_module(self.module).quickstart
        return quickstart(args.seed, args.report, progress=not args.quiet)

    def kept(self, args: argparse.Namespace) -> str:
        return "nothing was to be kept; the same command begins anew"
