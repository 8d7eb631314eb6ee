"""What is distributed: every file of the packages, one version, and bounds that are tested."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from influence import __version__
from influence.extras import EXTRA_OF

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    name for name in PROJECT["optional-dependencies"] if name not in ("all", "dev", "dev-trees")
}
DISTRIBUTION = {"sklearn": "scikit-learn"}  # where it is not the package's own name
TESTED_AS = {"xgboost": "xgboost-cpu"}  # the same package without CUDA


def pins(name: str) -> dict[str, str]:
    """Versions by distribution, of a file of constraints; of two, that of the older Pythons."""
    lines = (ROOT / name).read_text().splitlines()
    pinned = (line.partition(";")[0] for line in lines if not line.endswith('>= "3.12"'))
    return dict(line.split("==") for line in pinned if line and not line.startswith("#"))


def bounds(extra: str | None = None) -> dict[str, str]:
    """Lower bounds by distribution, of an extra with those it includes; of None: of all users."""
    found = {}
    wanted = PROJECT["dependencies" if extra is None else "optional-dependencies"]
    for one in wanted if extra is None else wanted[extra]:
        if included := re.fullmatch(r"influence-toolkit\[(.*)\]", one):
            for other in included[1].split(","):
                found |= bounds(other)
        else:
            name, bound = re.split(">=", one)
            found[name.partition("[")[0]] = bound
    return found


def as_numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def is_same(a: str, b: str) -> bool:
    """Whether two versions are equal but for zeros at the end."""
    left, right = as_numbers(a), as_numbers(b)
    longest = max(len(left), len(right))
    return left + [0] * (longest - len(left)) == right + [0] * (longest - len(right))


def test_every_file_of_a_package_is_installed() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text())
    words = {word.arg: word.value for word in ast.walk(tree) if isinstance(word, ast.keyword)}
    listed = {
        path.relative_to(ROOT)
        for package, patterns in ast.literal_eval(words["package_data"]).items()
        for pattern in patterns
        for path in (ROOT / package).glob(pattern)
    }
    there = {
        path.relative_to(ROOT)
        for package in ("influence", "tree_influence", "llm_influence")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".nbi", ".nbc")
    }
    assert there == listed, "package_data in setup.py is out of date"


def test_the_version_is_written_once() -> None:
    assert PROJECT["dynamic"] == ["version"]
    places = [
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.toml", "*.py", "*.cfg", "influence/**/*.py", "tree_influence/**/*.py",
                        "llm_influence/**/*.py", "docs/conf.py")
        for path in ROOT.glob(pattern)
        if __version__ in path.read_text()
    ]  # fmt: skip
    assert places == ["influence/__init__.py"]


@pytest.mark.parametrize("extra", [None, *sorted(EXTRAS)])
def test_lower_bounds_are_what_is_tested(extra: str | None) -> None:
    oldest = pins("constraints-oldest.txt")
    for name, bound in bounds(extra).items():
        if name == "torch":  # see constraints-oldest.txt
            continue
        tested = oldest[TESTED_AS.get(name, name)]
        assert is_same(tested, bound), f"{name}: bound {bound}, `make oldest` tests {tested}"


def test_development_has_the_bounds_of_users() -> None:
    dev = bounds("dev")
    for name, bound in bounds("all").items():
        assert dev[TESTED_AS.get(name, name)] == bound, f"{name} of the extra dev"


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_pins_are_within_the_bounds(name: str) -> None:
    pinned = pins(name)
    for package, bound in {**bounds(), **bounds("dev")}.items():
        assert as_numbers(pinned[package]) >= as_numbers(bound), f"{package} in {name}"


def test_errors_name_the_extra_that_brings_a_package() -> None:
    for package, extra in EXTRA_OF.items():
        distribution = DISTRIBUTION.get(package, package)
        assert distribution in bounds(extra), f"the extra {extra} does not bring {package}"
    brought = {name for extra in EXTRAS for name in bounds(extra)}
    known = {DISTRIBUTION.get(package, package) for package in EXTRA_OF}
    assert brought == known, "the table of influence/extras.py is out of date"
