"""The methods that have a page, out of `docs/methods.toml`."""

import tomllib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

TABLE = Path(__file__).parents[1] / "methods.toml"
OTHER_NAMES = "measured as"


@dataclass(frozen=True)
class Method:
    """What the page of a method needs besides its docstring.

    Attributes:
        package: Where users import it from.
        short: Its name there.
        whom: For whom it is, in a sentence or more.
        measured_as: How results name it, where that is not its own name.
    """

    package: str
    short: str
    whom: str
    measured_as: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.package}.{self.short}"

    @property
    def page(self) -> str:
        """Its page in the folder of generated ones."""
        return f"methods/{self.package.partition('_')[0]}_{self.short.lower()}.md"

    @property
    def line(self) -> str:
        """The first line of its docstring."""
        found = getattr(import_module(self.package), self.short)
        return (found.__doc__ or "").strip().split("\n")[0]


def _groups() -> dict[str, tuple[Method, ...]]:
    listed = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    other = listed.pop(OTHER_NAMES)
    return {
        group: tuple(
            Method(package, short, whom, tuple(other.get(package, {}).get(short, ())))
            for package, methods in packages.items()
            for short, whom in methods.items()
        )
        for group, packages in listed.items()
    }


GROUPS = _groups()  # by their titles
METHODS = tuple(method for methods in GROUPS.values() for method in methods)
