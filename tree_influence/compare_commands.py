"""The command `influence compare`: which method to believe, for one's own model.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from influence.cli import Found
from tree_influence.command_input import Given, add_input_arguments, read_input
from tree_influence.methods import CHANCE, Method, chosen_methods

REMARKS = (
    "LDS: how well predicted effects of training on random halves of the rows rank like the real "
    "ones; LOO: the same of leaving out single rows; removal: how much the loss rises without the "
    "rows ranked first. Larger = better. The model is trained again for each; with --cache, a "
    "comparison that was cut goes on where it was."
)
DEFAULT = "boostin,leaf_influence,tree_sim,input_similarity"


class Compare:
    """`influence compare`: methods judged by retraining a saved model."""

    help = "judge methods on a saved tree model by retraining it: LDS, LOO, removal, time, memory"
    example = (
        "influence compare model.txt --train train.csv --target y --queries new.csv \\\n"
        "    --methods boostin,leaf_influence --cache retrained --out comparison"
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = REMARKS
        add = parser.add_argument
        add_input_arguments(parser)
        add("--methods", default=DEFAULT, metavar="A,B", help="names of methods, without spaces; a "
            "wrong one lists those known (default: %(default)s); a random ranking is always "
            "added")  # fmt: skip
        add("--n-queries", type=int, default=20, metavar="N", help="queries to judge by, drawn at "
            "random from the file (default: %(default)s)")  # fmt: skip
        add("--loo", type=int, default=20, metavar="N", help="rows left out one at a time; 0 for "
            "none (default: %(default)s)")  # fmt: skip
        add("--subsets", type=int, default=30, metavar="N", help="random halves of the rows "
            "trained on; 0 for none (default: %(default)s)")  # fmt: skip
        add("--fractions", default="0.01,0.02", metavar="A,B", help="shares of the rows to remove, "
            "those ranked first; none for '' (default: %(default)s)")  # fmt: skip
        add("--cache", metavar="DIR", help="keep every retraining here, and go on from there")
        add("--jobs", type=int, default=1, metavar="N", help="retrainings at a time; best with a "
            "model that uses one thread (default: %(default)s)")  # fmt: skip
        add(
            "--seed",
            type=int,
            default=0,
            metavar="N",
            help="of all that is drawn (default: %(default)s)",
        )
        add("--out", metavar="DIR", help="write CSV, JSON and, with matplotlib, a figure here")
        add("--report", metavar="FILE", help="write a page to look at, report.html say")

    def run(self, args: argparse.Namespace) -> Found:
        from joblib import parallel_config

        from influence import Campaign
        from influence.comparison import compare_methods
        from influence.report.page import check_writable
        from influence.tables import labelled, make_folder

        options = _options(args)
        methods = chosen_methods(args.methods)
        if args.out is not None:
            make_folder(args.out)
        if args.report is not None:
            check_writable(args.report)
        asked = _drawn(read_input(args), args.n_queries, args.seed)
        with parallel_config(n_jobs=args.jobs):
            plan = _Plan.of(asked, methods, options, args.jobs)
            if not args.quiet:
                print(plan, flush=True)
            campaign = Campaign(
                plan.retrain, args.cache, progress=not args.quiet, on_error="nan"
            )  # fmt: skip
            explained = {name: _explained(method, asked, args) for name, method in methods.items()}
            found = compare_methods(explained, campaign, **options)
        stated = _provenance(found, plan, asked)
        return Found(
            "\n".join([table(found), *asked.stated.values()]),
            {
                "provenance": stated,
                "queries": labelled(asked.facts),
                "results": found.to_frame(),
                "removal": found.removal_frame(),
            },
            lambda: _written(found, stated, args),
        )

    def kept(self, args: argparse.Namespace) -> str:
        if args.cache is None:
            return "nothing is kept; with --cache DIR, finished retrainings are"
        return f"finished retrainings are kept in {args.cache}; the same command goes on from there"


compare = Compare()


@dataclass(frozen=True, eq=False)
class _Plan:
    """What will be retrained, and how long that may take.

    Attributes:
        retrain: From a change to real effects.
        trainings: Their numbers, by what they are for.
        seconds: Of one training.
        jobs: Trainings at a time.
    """

    retrain: Callable[[Any], Any]
    trainings: Mapping[str, int]
    seconds: float
    jobs: int

    @classmethod
    def of(
        cls, given: Given, methods: Mapping[str, Method], options: Mapping[str, Any], jobs: int
    ) -> "_Plan":
        """Trains twice: to have what the others are compared with, and to time one."""
        from influence import Without
        from influence.comparison import n_retrainings
        from tree_influence import retrainer

        counted = {name: value for name, value in options.items() if name != "seed"}
        n_judged = len(set(methods) | {CHANCE}) - 1
        trainings = n_retrainings(n_judged, len(given.y), **counted)
        own = sum(method.n_trainings(given.run.n_train) for method in methods.values())
        retrain = retrainer(given.run, given.X, given.y)
        start = time.perf_counter()
        retrain(Without([]))
        seconds = time.perf_counter() - start
        return cls(retrain, {**trainings, "of the methods": own}, seconds, jobs)

    def __str__(self) -> str:
        total = sum(self.trainings.values())
        parts = ", ".join(f"{n} {name}" for name, n in self.trainings.items() if n)
        return (
            f"plan: at most {total} trainings ({parts}) of {self.seconds:.2g} s, "
            f"{self.jobs} at a time: about {_duration(total * self.seconds / self.jobs)}, less "
            "what the cache holds; smaller with --n-queries, --loo, --subsets, --fractions"
        )


def table(found: Any) -> str:
    """The comparison as text."""
    import pandas as pd

    rows, refusals = [], []
    for row in found.to_frame().to_dict("records"):
        none = "refused" if row["refused"] else "-"
        line = {"method": row["method"]}
        for name, title in (("lds", "LDS"), ("loo", "LOO"), ("removal", "removal")):
            mean, low, high = (row[name + end] for end in ("", "_low", "_high"))
            interval = "" if pd.isna(low) else f" [{low:+.3f}, {high:+.3f}]"
            line[title] = none if pd.isna(mean) else f"{mean:+.3f}{interval}"
        for name, title in (("seconds", "seconds"), ("peak_mib", "MiB")):
            line[title] = "" if pd.isna(row[name]) else f"{row[name]:.3g}"
        rows.append(line)
        if row["refused"]:
            refusals.append(f"{row['method']} refused: {row['refused']}")
    told = [
        pd.DataFrame(rows).to_string(index=False),
        "LDS, LOO: mean rank correlation with the real effects of half subsets and of single rows;",
        "removal: mean change of loss without each query's top rows. All: larger = better.",
    ]
    return "\n".join([*told, *_failures(found), *refusals])


def _failures(found: Any) -> list[str]:
    """What could not be trained: the same changes for every method, but for the removals."""
    import numpy as np

    judged = found.methods[-1]
    measures = {"LDS": judged.lds, "LOO": judged.loo}
    told = [
        f"{name}: {len(one.failed)} more changes could not be trained, e.g. for want of a class"
        for name, one in measures.items()
        if one is not None and one.failed
    ]
    for one in found.methods:
        lost = 0 if one.removal is None else int(np.isnan(one.removal.effects[-1]).sum())
        if lost:
            told.append(
                f"removal: {lost} of {found.n_queries} queries are left out of {one.name}'s mean: "
                "what is left without their top rows could not be trained on"
            )
    return told


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `compare_methods`."""
    from influence.checks import check_whole
    from influence.errors import InputError

    check_whole("--seed", args.seed)
    check_whole("--n-queries", args.n_queries, least=1)
    for name, n in (("--loo", args.loo), ("--subsets", args.subsets)):
        if n != 0 and n < 3:
            raise InputError(f"{name} must be 0, or 3 or more for a correlation, got {n}.")
    if args.jobs == 0:
        raise InputError("--jobs must not be 0: 1 trains one after the other, -1 uses all cores.")
    try:
        fractions = [float(one) for one in args.fractions.split(",") if one.strip()]
    except ValueError as error:
        raise InputError(
            f"--fractions takes shares such as 0.01,0.02, got {args.fractions!r}."
        ) from error
    if not all(0 <= share <= 1 for share in fractions):
        raise InputError(
            f"--fractions takes shares from 0 to 1, got {args.fractions!r}; divide percentages by "
            "100."
        )
    if args.loo == args.subsets == 0 and not any(fractions):
        raise InputError(
            "Expected something to measure, but --loo and --subsets are 0 and --fractions removes "
            "nothing; give one of them."
        )
    return {
        "loo": args.loo,
        "subsets": args.subsets,
        "fractions": sorted(fractions),
        "seed": args.seed,
    }


def _drawn(given: Given, n: int, seed: int) -> Given:
    """At most n of the queries, in the order of the file."""
    import numpy as np

    from tree_influence.rows import take

    n_queries = len(given.y)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(n_queries, min(n, n_queries), replace=False))
    X, y, facts = take(given.X, rows), given.y.iloc[rows], given.facts.iloc[rows]
    return Given(given.run, X, y, facts)


def _explained(method: Method, given: Given, args: argparse.Namespace) -> Callable[[], Any]:
    """Explains the queries; what trains nothing answers a change before, since that compiles."""
    from influence import Without
    from influence.errors import InfluenceError

    def fitted() -> Any:
        return method.estimator(args.seed).fit(given.run, progress=not args.quiet)

    if not method.trains:
        with contextlib.suppress(InfluenceError):  # told in the table
            fitted().predict(Without([0]), given.X, given.y)
    return lambda: fitted().explain(given.X, given.y, progress=not args.quiet)


def _written(found: Any, stated: Mapping[str, Any], args: argparse.Namespace) -> list[Path]:
    """Writes the folder and the page, those that are asked for."""
    files = [] if args.out is None else _write(Path(args.out), found, stated, args)
    if args.report is None:
        return files

    from influence.report import write
    from influence.report.comparison import comparison_page

    about = {
        "unit": stated["unit"],
        "seconds of a training": stated["seconds_per_training"],
        **{name.replace("_", " "): value for name, value in stated["run"].items()},
        "fingerprint": stated["fingerprint"],
        **{
            f"method {one.name}": one.influence.provenance.estimator
            for one in found.methods
            if one.influence is not None
        },
    }
    page = comparison_page(found, about, _failures(found))
    return [*files, write(args.report, page)]


def _write(
    out: Path, found: Any, stated: Mapping[str, Any], args: argparse.Namespace
) -> list[Path]:
    """Writes tables, figure and provenance."""
    from influence.cli.document import arguments_of
    from influence.errors import MissingPackageError
    from influence.tables import together

    told = {
        "configuration": arguments_of(args),
        **stated,
        "results": json.loads(found.to_frame().to_json(orient="records", double_precision=15)),
    }
    names = ["comparison.csv", "removal.csv", "comparison.json"]
    with together(out) as part:
        found.to_frame().to_csv(part / names[0], index=False)
        found.removal_frame().to_csv(part / names[1], index=False)
        (part / names[2]).write_text(json.dumps(told, indent=2) + "\n")
        with contextlib.suppress(MissingPackageError):  # the figure is an extra
            found.plot().savefig(part / "comparison.png", dpi=120)
            names.append("comparison.png")
    return [out / name for name in names]


def _provenance(found: Any, plan: _Plan, asked: Given) -> dict[str, Any]:
    run = asked.run
    return {
        "unit": "lds, loo: rank correlation; removal: change of the loss",
        "sign": "larger = better",
        "n_train": found.n_train,
        "n_queries": found.n_queries,
        "trainings_at_most": dict(plan.trainings),
        "seconds_per_training": plan.seconds,
        "fingerprint": run.fingerprint,
        "run": {**run.provenance, **asked.stated},
        "methods": {
            one.name: one.refused or asdict(one.influence.provenance) for one in found.methods
        },
    }


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
