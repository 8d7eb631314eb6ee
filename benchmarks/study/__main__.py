"""Runs the study; writes results as JSON and the tables of benchmarks/STUDY.md."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.study import report
from benchmarks.study.cells import Cell, Study, version_of
from benchmarks.study.problems import missing_data
from benchmarks.study.scales import BUNDLED, DEAR, LIBRARIES, SCALES, Scale
from benchmarks.tables import replace_part
from influence.checks import check_whole
from influence.errors import InfluenceError, InputError
from tree_influence.methods import CHANCE, Method, chosen_methods, known_methods

HERE = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for and returns the exit code."""
    args = _parser().parse_args(argv)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # the libraries are not loaded yet
        os.environ.setdefault(name, "1")
    try:
        methods, scale = _methods(args), _asked(args)
    except InfluenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    scale, absent = _at_hand(scale, args.data is None)
    for name, why in absent.items():
        print(f"absent: {name} ({why})", flush=True)
    if not scale.data:
        print("error: none of these data sets is at hand.", file=sys.stderr)
        return 2
    study = Study(scale, methods, Path(args.cache), args.seed)
    print(_plan(study), flush=True)
    cells = _run(study, args.jobs)
    told = _told(study, args, absent)
    text = "\n\n".join([_heading(told), report.render(cells)])
    print(text)
    partial = [args.data, args.libraries, args.methods] != [None] * 3
    if args.out is None and partial:
        print("A part of the study is not written to benchmarks/; --out DIR keeps it.")
        return 0
    _write(Path(args.out or HERE), args, told, cells, text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    add = parser.add_argument
    add("--scale", choices=list(SCALES), default="small", help="default: %(default)s")
    add("--data", metavar="A,B", help="only these data sets")
    add("--libraries", metavar="A,B", help="only these libraries")
    add("--methods", metavar="A,B", help=f"only these methods, and {CHANCE}")
    add("--all", action="store_true", help=f"also {' and '.join(DEAR)}")
    add("--jobs", type=int, default=2, metavar="N", help="models at a time (default: %(default)s)")
    add("--cache", default="study-cache", metavar="DIR", help="finished cells and retrainings; a "
        "stopped study goes on from here (default: %(default)s)")  # fmt: skip
    add("--out", metavar="DIR", help="where results/ and STUDY.md are (default: benchmarks, unless "
        "only a part is run)")  # fmt: skip
    add("--plots", action="store_true", help="also PNG files in results/, with matplotlib")
    add("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    return parser


def _methods(args: argparse.Namespace) -> dict[str, Method]:
    if args.methods is not None:
        return chosen_methods(f"{args.methods},{CHANCE}")
    return {name: one for name, one in known_methods().items() if args.all or name not in DEAR}


def _asked(args: argparse.Namespace) -> Scale:
    check_whole("--seed", args.seed)
    if args.jobs == 0:
        raise InputError("--jobs must not be 0.")
    scale = SCALES[args.scale]
    if args.data is not None:
        scale = replace(scale, data=tuple(args.data.split(",")))
    if args.libraries is not None:
        scale = replace(scale, libraries=tuple(args.libraries.split(",")))
        if not set(scale.libraries) <= set(LIBRARIES):
            raise InputError(
                f"Expected libraries out of {', '.join(LIBRARIES)}, got {args.libraries}."
            )
    return scale


def _at_hand(scale: Scale, all_of_it: bool) -> tuple[Scale, dict[str, str]]:
    """The scale without the data sets that are not there, and why they are not.

    Where no folder of data is named, the sets bundled with scikit-learn stand in for all of them.
    """
    missing = {name: missing_data(name) for name in scale.data}
    absent = {name: why for name, why in missing.items() if why}
    found = tuple(name for name in scale.data if name not in absent)
    if not found and all_of_it and not os.environ.get("INFLUENCE_DATA"):
        found = BUNDLED
    return replace(scale, data=found), absent


def _plan(study: Study) -> str:
    shared, each = study.scale.n_retrainings()
    n_pairs, n_methods = len(study.pairs()), len(study.methods)
    total = n_pairs * (shared + each * n_methods)
    return (
        f"plan: {n_methods} methods on {n_pairs} models (data: {', '.join(study.scale.data)}); at "
        f"most {total} retrainings beside the methods' own, less what {study.cache} holds"
    )


def _run(study: Study, jobs: int) -> list[Cell]:
    """All cells; pairs beside each other, the others go on where one fails altogether."""
    from joblib import Parallel, delayed

    start, cells, pairs = time.perf_counter(), [], study.pairs()
    parallel: Any = Parallel(n_jobs=jobs, return_as="generator")
    for done, found in enumerate(parallel(delayed(study.run)(*pair) for pair in pairs), 1):
        cells += found
        failed = sum("error" in cell for cell in found)
        print(
            f"[{done}/{len(pairs)}] {found[0]['data']} {found[0]['library']}: {len(found)} cells, "
            f"{failed} without numbers; {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return cells


def _told(study: Study, args: argparse.Namespace, absent: dict[str, str]) -> dict[str, Any]:
    """What a reader of the results should know."""
    libraries = ("numpy", "numba", *study.scale.libraries)
    machine = {
        "processor": platform.machine(), "cores": os.cpu_count(), "jobs": args.jobs,
        "python": platform.python_version(), "seed": args.seed,
        **{name: version_of(name) for name in libraries},
    }  # fmt: skip
    scale = {"name": args.scale, **asdict(study.scale)}
    return {"machine": machine, "scale": scale, "absent": absent}


def _heading(told: dict[str, Any]) -> str:
    measured = ", ".join(f"{name} {value}" for name, value in told["machine"].items())
    absent = ", ".join(told["absent"])
    return f"Measured with: {measured}." + (f"\n\nAbsent: {absent}." if absent else "")


def _write(
    out: Path, args: argparse.Namespace, told: dict[str, Any], cells: list[Cell], text: str
) -> None:
    """Writes results, a line for each cell, the tables, and plots."""
    path = out / "results" / f"study_{args.scale}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = ",\n".join(json.dumps(cell) for cell in cells)
    path.write_text(f'{json.dumps(told, indent=1)[:-2]},\n "cells": [\n{listed}\n]}}\n')
    if (out / "STUDY.md").exists():
        replace_part(out / "STUDY.md", args.scale, text)
    else:
        (out / "STUDY.md").write_text(f"{text}\n")
    if args.plots:
        report.plots(cells, out / "results" / f"study_{args.scale}")


if __name__ == "__main__":
    sys.exit(main())
