"""Names of a package that are imported on first use, so that `import influence` costs nothing."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence

from influence.extras import extras_named


def exports(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a lazy package (PEP 562).

    Args:
        package: The package's `__name__`.
        homes: Public names by the module that defines them; a module that is itself public has
            an empty list.
    """
    home_of = {name: module for module, names in homes.items() for name in names}
    modules = {module.rpartition(".")[2]: module for module, names in homes.items() if not names}

    def get(name: str) -> object:
        if name in modules:
            return importlib.import_module(modules[name])
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with extras_named():
            value = getattr(importlib.import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of, *modules})

    return get, names
