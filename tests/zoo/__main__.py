"""Draws and checks many models: `python -m tests.zoo`; `make zoo`."""

import argparse
import importlib
import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from joblib import Parallel, delayed

from tests.zoo.case import Zoo
from tests.zoo.check import Mismatch, check
from tests.zoo.support import with_table

LIBRARIES = ("lightgbm", "xgboost", "catboost", "sklearn")


def zoo_of(library: str) -> Zoo:
    return importlib.import_module(f"tests.zoo.{library}").ZOO


def one(library: str, seed: int) -> tuple[str, str]:
    """How a drawn model ended, and a line for what was wrong."""
    zoo = zoo_of(library)
    model = zoo.draw(seed)
    try:
        with warnings.catch_warnings():  # the libraries' own
            warnings.simplefilter("ignore")
            return check(zoo, model).kind, ""
    except Mismatch as error:
        return "MISMATCH", f"{model}\n    {error}"
    except Exception as error:
        return "MISMATCH", f"{model}\n    {type(error).__name__}: {error}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--library", choices=LIBRARIES, action="append")
    parser.add_argument("--n", type=int, default=8000, help="models in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="first seed (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the counts as JSON")
    parser.add_argument("--table", type=Path, metavar="README", help="only write the table there")
    args = parser.parse_args()
    if args.table:
        args.table.write_text(with_table(args.table.read_text(), [*map(zoo_of, LIBRARIES)]))
        return 0
    return draw_many(args)


def draw_many(args: argparse.Namespace) -> int:
    """Draws, checks and prints; 1 if anything was wrong."""
    chosen = args.library or LIBRARIES
    each = -(-args.n // len(chosen))
    n_wrong, ran = 0, {}
    for library in chosen:
        started = time.perf_counter()
        found = Parallel(n_jobs=args.jobs)(
            delayed(one)(library, seed) for seed in range(args.seed, args.seed + each)
        )
        counts = Counter(kind for kind, _ in found)
        n_wrong += counts["MISMATCH"]
        ran[f"{library} {zoo_of(library).version}"] = dict(sorted(counts.items()))
        told = ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items()))
        seconds = time.perf_counter() - started
        print(f"{library} {zoo_of(library).version}: {each} models in {seconds:.0f} s: {told}")
        for _, line in found:
            if line:
                print(f"  {line}")
    print(f"{each * len(chosen)} models, {n_wrong} mismatches")
    if args.out:
        told = {"models": each * len(chosen), "mismatches": n_wrong, "first_seed": args.seed}
        told = json.dumps({**told, "python": sys.version.split()[0], **ran}, indent=1)
        args.out.write_text(told + "\n")
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
