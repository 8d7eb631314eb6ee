"""Packages that are optional, and the extra of this toolkit that brings each."""

from collections.abc import Iterator
from contextlib import contextmanager

from influence.errors import MissingPackageError

EXTRA_OF = {
    "lightgbm": "lightgbm",
    "xgboost": "xgboost",
    "catboost": "catboost",
    "numba": "trees",
    "sklearn": "trees",
    "skops": "trees",
    "pyarrow": "trees",
    "torch": "llm",
    "transformers": "llm",
    "datasets": "llm",
    "peft": "llm",
    "safetensors": "llm",
    "bm25s": "llm",
    "matplotlib": "report",
    "jinja2": "report",
    "plotly": "report",
}


def installed(package: str) -> bool:
    """Whether a package is there, without importing it."""
    from importlib.util import find_spec

    return find_spec(package) is not None


def check_installed(package: str) -> None:
    """Raises an error that says which extra brings a package of `EXTRA_OF`, if it is not there.

    Raises:
        MissingPackageError: It is not installed.
    """
    if not installed(package):
        raise _absent(package)


@contextmanager
def extras_named() -> Iterator[None]:
    """Imports inside it that fail for want of an optional package say which extra brings it.

    Raises:
        MissingPackageError: A package of `EXTRA_OF` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_OF:
            raise
        raise _absent(error.name) from error


def _absent(package: str) -> MissingPackageError:
    return MissingPackageError(
        f"This needs {package}, which is not installed: "
        f"pip install 'influence-toolkit[{EXTRA_OF[package]}]'."
    )
