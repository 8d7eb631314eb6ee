"""The house rules that a machine can check: who imports what, sizes, and what is never used."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [
    name for name in ("influence", "tree_influence", "llm_influence") if (ROOT / name).is_dir()
]
SHIPPED = [*PACKAGES, "benchmarks", "datasets"]
EVERYTHING = [*SHIPPED, "tests", "examples", "docs"]

NEVER_IMPORTED = {
    "influence": {"tree_influence", "llm_influence", "benchmarks", "tests"},
    "tree_influence": {"llm_influence", "torch", "benchmarks", "tests"},
    "llm_influence": {"tree_influence", "benchmarks", "tests"},
}
# What a file may import outside functions, besides the standard library and our packages.
AT_TOP = {
    "influence": {"numpy", "scipy", "pandas"},
    "tree_influence": {"numpy", "scipy", "pandas"},
    "llm_influence": {"numpy", "scipy", "pandas", "torch"},
}
# An adapter may also import its own library: adapters/sklearn*.py imports sklearn.
ADAPTER_OF = {
    "lightgbm": {"lightgbm"},
    "xgboost": {"xgboost"},
    "catboost": {"catboost"},
    "sklearn": {"sklearn", "skops"},
}
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal"}

MAX_FILE = 400
MAX_FUNCTION = 60  # without its docstring


@dataclass(frozen=True)
class Import:
    """One imported module, and whether importing the file imports it."""

    place: str
    module: str
    at_top: bool

    @property
    def root(self) -> str:
        return self.module.split(".")[0]


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path, node: ast.AST | None = None) -> str:
    where = path.relative_to(ROOT).as_posix()
    return where if node is None else f"{where}:{getattr(node, 'lineno', '?')}"


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file; those in functions and under TYPE_CHECKING are not at the top."""

    def walk(nodes: list[ast.AST], at_top: bool) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(place(path, node), alias.name, at_top)
            elif isinstance(node, ast.ImportFrom):
                yield Import(place(path, node), "." * node.level + (node.module or ""), at_top)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from walk([*ast.iter_child_nodes(node)], False)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from walk([*node.body], False)
                yield from walk([*node.orelse], at_top)
            else:
                yield from walk([*ast.iter_child_nodes(node)], at_top)

    return walk([parsed(path)], True)


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))


def allowed_at_top(package: str, path: Path) -> set[str]:
    allowed = AT_TOP[package] | set(PACKAGES)
    if path.parent.name == "adapters":
        for library, roots in ADAPTER_OF.items():
            if path.stem.startswith(library):
                allowed |= roots
    if package == "tree_influence" and path.stem.endswith("kernels"):
        allowed |= {"numba"}
    return allowed


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    wrong = [
        f"{found.place} imports {found.module}"
        for path in files(package)
        for found in imports(path)
        if found.root in NEVER_IMPORTED[package]
    ]
    assert not wrong, f"{package} must not know of these: {wrong}"


@pytest.mark.parametrize("package", PACKAGES)
def test_heavy_libraries_are_imported_where_they_are_used(package: str) -> None:
    wrong = [
        f"{found.place} imports {found.module}"
        for path in files(package)
        for found in imports(path)
        if found.at_top
        and found.root not in sys.stdlib_module_names
        and found.root not in allowed_at_top(package, path)
    ]
    assert not wrong, (
        f"import these inside the function that needs them (numba: in *kernels.py, a model's "
        f"library: in its adapter): {wrong}"
    )


def test_imports_are_absolute() -> None:
    wrong = [
        found.place
        for path in files(*EVERYTHING)
        for found in imports(path)
        if found.module.startswith(".")
    ]
    assert not wrong


def test_oracles_share_no_code_with_ours() -> None:
    wrong = [
        f"{found.place} imports {found.module}"
        for path in files("tests/reference")
        for found in imports(path)
        if found.root in PACKAGES
    ]
    assert not wrong, f"an oracle that imports our code cannot find its errors: {wrong}"


def test_datasets_is_no_package() -> None:
    assert not (ROOT / "datasets" / "__init__.py").exists(), (
        "it would shadow Hugging Face's datasets; see datasets/README.md"
    )


def test_every_package_is_installed() -> None:
    there = {
        place(path.parent).replace("/", ".")
        for path in files(*PACKAGES)
        if path.name == "__init__.py"
    }
    (setup,) = [call for call in calls(ROOT / "setup.py") if ast.unparse(call.func) == "setup"]
    (listed,) = [keyword.value for keyword in setup.keywords if keyword.arg == "packages"]
    assert set(ast.literal_eval(listed)) == there, "the list in setup.py is out of date"


def test_nothing_prints_but_commands() -> None:
    wrong = [
        place(path, call)
        for path in files(*PACKAGES)
        if path.parent.name != "cli" and not path.stem.endswith("commands")
        for call in calls(path)
        if isinstance(call.func, ast.Name) and call.func.id == "print"
    ]
    assert not wrong, f"raise, return, or leave it to a command: {wrong}"


def test_nothing_is_pickled() -> None:
    wrong = [
        f"{found.place} imports {found.module}"
        for path in files(*SHIPPED)
        for found in imports(path)
        if found.root in PICKLES
    ]
    for path in files(*SHIPPED):
        for call in calls(path):
            allow = [word.value for word in call.keywords if word.arg == "allow_pickle"]
            if any(ast.unparse(value) != "False" for value in allow):
                wrong.append(f"{place(path, call)} allows pickle")
            if ast.unparse(call.func) in {"joblib.load", "joblib.dump", "pd.read_pickle"}:
                wrong.append(f"{place(path, call)} calls {ast.unparse(call.func)}")
    assert not wrong, f"loading a pickle runs whatever code it holds: {wrong}"


def test_files_are_short() -> None:
    wrong = []
    for path in files(*EVERYTHING):
        n_lines = len(path.read_text(encoding="utf-8").splitlines())
        if n_lines > MAX_FILE:
            wrong.append(f"{place(path)} has {n_lines} lines")
    assert not wrong, f"split these by topic, at most {MAX_FILE} lines each: {wrong}"


def test_functions_are_short() -> None:
    wrong = []
    for path in files(*EVERYTHING):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = (node.end_lineno or 0) - node.lineno + 1
                docstring = ast.get_docstring(node, clean=False)
                n_lines -= len(docstring.splitlines()) if docstring else 0
                if n_lines > MAX_FUNCTION:
                    wrong.append(f"{place(path, node)} {node.name} has {n_lines} lines")
    assert not wrong, f"at most {MAX_FUNCTION} lines each: {wrong}"


MODEL_LIBRARIES = {"lightgbm", "xgboost", "catboost", "sklearn", "skops", "torch"}
SHOW_HELP = """
import contextlib
from influence.cli.main import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):
    main(["--help"])
"""


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import influence", {"pandas", "scipy", "numba", "tqdm", "joblib"} | MODEL_LIBRARIES),
        ("import tree_influence", {"pandas", "scipy", "numba"} | MODEL_LIBRARIES),
        ("from tree_influence import BoostIn, trace", MODEL_LIBRARIES),
        (SHOW_HELP, {"numpy"}),
    ],
    ids=["influence", "tree_influence", "methods", "help"],
)
def test_importing_is_cheap(code: str, unwanted: set[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    loaded = {name.split(".")[0] for name in ended.stdout.split()} & unwanted
    assert not loaded, f"this imports {loaded} before anything needs it"


@pytest.mark.parametrize("package", PACKAGES)
def test_lazy_names_resolve(package: str) -> None:
    module = importlib.import_module(package)
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing, f"{package}.__all__ and the table of homes in its __init__ differ"
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = module.nonsense
