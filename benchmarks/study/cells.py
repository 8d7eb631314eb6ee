"""Every measure of every method on every subject: done once, kept as JSON, errors recorded.

A cell is one (data set, library, method, measure). Its file is written as soon as it is done, so a
study that was stopped goes on where it was. Cells that failed are tried again.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.study.measures import MEASURES
from benchmarks.study.scales import Scale
from benchmarks.study.subject import Answers, Subject
from influence import __version__
from influence.errors import InfluenceError
from influence.run import fingerprint
from tree_influence.methods import Method

Cell = dict[str, Any]
DISTRIBUTIONS = {"sklearn": "scikit-learn", "xgboost": "xgboost-cpu"}
WHERE = {"data", "libraries"}  # what of a scale says where, not what, is measured


@dataclass(frozen=True)
class Study:
    """What is to be measured, and where it is kept.

    Attributes:
        scale: Sizes.
        methods: Methods by name.
        cache: Folder of the cells and of every retraining.
        seed: Seed of everything drawn.
        measures: Names of measures.
    """

    scale: Scale
    methods: Mapping[str, Method]
    cache: Path
    seed: int = 0
    measures: Sequence[str] = tuple(MEASURES)

    def pairs(self) -> list[tuple[str, str]]:
        """Every data set with every library."""
        return [(data, library) for data in self.scale.data for library in self.scale.libraries]

    def run(self, data: str, library: str) -> list[Cell]:
        """All cells of one data set and library, from disk where they are there.

        On one thread: models run beside each other instead.
        """
        import numba

        subject = Subject(data, library, self.scale, self.cache / "retrained", self.seed)
        threads = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            return [cell for name in self.methods for cell in self._cells(subject, name)]
        finally:
            numba.set_num_threads(threads)

    def _cells(self, subject: Subject, name: str) -> Iterator[Cell]:
        answers = Answers(self.methods[name], subject)
        for measure in self.measures:
            path = self.cache / "cells" / f"{self._key(subject, name, measure)}.json"
            cell = _read(path)
            if cell is None or "error" in cell:
                found = _measured(answers, measure)
                where = {"data": subject.data, "library": subject.library}
                cell = rounded({**where, "method": name, "measure": measure, **found})
                _write(path, cell)
            yield cell

    def _key(self, subject: Subject, name: str, measure: str) -> str:
        """Readable, and another one where anything that decides the numbers is another."""
        sizes = {one.name: getattr(self.scale, one.name) for one in fields(self.scale)}
        told = {key: value for key, value in sizes.items() if key not in WHERE}
        estimator = self.methods[name].estimator(self.seed)
        decided = fingerprint(
            repr(told), repr(estimator), str(self.seed), __version__, version_of(subject.library)
        )
        parts = (subject.data, subject.library, name, measure, decided[:12])
        return "-".join(parts)


def version_of(library: str) -> str:
    """Version of a library, whatever its distribution is called."""
    for distribution in (DISTRIBUTIONS.get(library, library), library):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "not installed"


def _measured(answers: Answers, measure: str) -> dict[str, Any]:
    """The numbers, or why there are none: whatever fails, the other cells go on."""
    start = time.perf_counter()
    try:
        found = {"numbers": MEASURES[measure](answers)}
    except InfluenceError as error:
        found = {"error": f"{type(error).__name__}: {error}", "refused": True}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}", "refused": False}
    return {**found, "took": time.perf_counter() - start}


def _read(path: Path) -> Cell | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # not there, or cut off while it was written
        return None


def _write(path: Path, cell: Cell) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(cell) + "\n")
    part.replace(path)


def rounded(value: Any) -> Any:
    """The same with six significant digits; NaN becomes None, as JSON has it."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return None if value != value else float(f"{value:.6g}")
    return value
