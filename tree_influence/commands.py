"""The commands `influence explain` and `influence quickstart`.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse

from tree_influence.command_input import add_input_arguments, read_input
from tree_influence.methods import known_methods


class Explain:
    """`influence explain`: a saved model and tables in, ranked training rows out."""

    help = "rank the training rows behind a saved tree model's predictions"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add_input_arguments(parser)
        add("--method", choices=[name for name, method in known_methods().items()
            if method.per_row == 0], default="leaf_influence",
            help="default: %(default)s; averaged_split is the most faithful, and trains 20 models "
            "on halves of the rows")  # fmt: skip
        add("--top", type=int, default=10, metavar="K", help="rows to show of each side "
            "(default: %(default)s)")  # fmt: skip
        add("--out", metavar="DIR", help="write CSV, Parquet, the result and its provenance here")

    def run(self, args: argparse.Namespace) -> int:
        from influence.errors import InputError
        from influence.tables import make_folder, write_results
        from tree_influence.tables import side_by_side

        if args.top < 1:
            raise InputError(f"--top must be at least 1, got {args.top}.")
        if args.out is not None:
            make_folder(args.out)
        given = read_input(args)
        estimator = known_methods()[args.method].estimator(seed=0).fit(given.run)
        top = estimator.explain_top(given.X, given.y, k=args.top, progress=not args.quiet)
        print(side_by_side(top, given.facts))
        print(f"{top.provenance.summary()}\nsign: {top.provenance.sign}")
        if args.out is not None:
            written = write_results(args.out, top, given.facts)
            print("written: " + ", ".join(str(path) for path in written))
        return 0


class Quickstart:
    """`influence quickstart`: the main job on bundled data."""

    help = "train on scikit-learn's breast cancer data, find the rows behind its errors"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")

    def run(self, args: argparse.Namespace) -> int:
        from tree_influence.quickstart import quickstart

        print(quickstart(args.seed))
        return 0


explain = Explain()
quickstart = Quickstart()
