"""All generated pages, by their path: methods, the reference, commands."""

import contextlib
import inspect
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from docs.generate.figures import beside_others, figures, overview
from docs.generate.methods import GROUPS, METHODS, Method
from influence.cli.group import Group
from influence.cli.main import GROUP, main

PACKAGES = ("influence", "tree_influence", "llm_influence")
# Families of methods by the names of their pages, and the tables that compare them.
FAMILIES = {
    "trees": ("Trees", ["Study"]),
    "language_models": ("Language models", ["Small models", "Authors", "Corpora"]),
    "order": ("Sample order and replay", ["Orders: Spearman", "Replay: LDS"]),
}
WIDTH = "88"  # of the help of commands


def all_pages() -> dict[str, str]:
    """Text of every generated page by its path."""
    pages = {method.page: of_method(method) for method in METHODS}
    pages["methods/index.md"] = of_all_methods()
    pages |= {f"methods/{name}.md": of_family(*family) for name, family in FAMILIES.items()}
    pages |= {f"api/{name}.md": of_package(name) for name in PACKAGES}
    pages["commands.md"] = of_commands()
    pages["included/beside_others.md"] = beside_others()
    return pages


def of_method(method: Method) -> str:
    return f"""\
# {method.short}

{method.whom}

```python
from {method.package} import {method.short}
```

{autodoc(method.name)}

## Measured

{figures(method)}

How to read these: [how methods are judged](../../judging.md).
"""


def of_all_methods() -> str:
    listed = [f"- [{family}]({name}.md)" for name, (family, _) in FAMILIES.items()]
    return f"""\
# Methods

Each page has the formula, its cost, where it is wrong or refused, the reference, and what was
measured. Which one to take: [choose a method](../../howto/choose.md).

{chr(10).join(listed)}

{toctree(FAMILIES)}
"""


def of_family(family: str, titles: Sequence[str]) -> str:
    """Methods of the groups whose names begin so, and the tables that compare them."""
    groups = {name: group for name, group in GROUPS.items() if name.startswith(family)}
    parts = [f"# {family}"]
    for name, group in groups.items():
        kind = name.removeprefix(family).strip(": ")
        lines = [f"| [{m.short}]({in_folder(m)}) | {m.line} |" for m in group]
        parts += [f"## {kind.capitalize()}"] * bool(kind)
        parts.append("\n".join(["| | |", "|---|---|", *lines]))
    compared = [overview(title) for title in titles]
    inside = [in_folder(method) for group in groups.values() for method in group]
    return "\n\n".join([*parts, "## Measured", *compared, toctree(inside)]) + "\n"


def in_folder(method: Method) -> str:
    return method.page.removeprefix("methods/")


def toctree(files: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *files, "```"])


def of_package(name: str) -> str:
    """All public names; those with a page of their own by a link."""
    package = import_module(name)
    linked = {method.short: method for method in METHODS if method.package == name}
    there = [public for public in package.__all__ if public not in linked and public[0] != "_"]
    lines = [f"- [{short}](../{method.page}): {method.line}" for short, method in linked.items()]
    parts = [f"# {name}", (package.__doc__ or "").strip().split("\n")[0]]
    if lines:
        parts += ["## Methods", "\n".join(lines)]
    for public in there:
        found = getattr(package, public)
        parts.append(f"## {public}\n\n{_documented(name, public, found)}")
    return "\n\n".join(parts) + "\n"


def _documented(package: str, public: str, found: Any) -> str:
    if isinstance(found, ModuleType):
        return rst(f".. automodule:: {found.__name__}", "members", "show-inheritance")
    return autodoc(f"{package}.{public}", "class" if inspect.isclass(found) else "function")


def autodoc(name: str, kind: str = "class") -> str:
    return rst(f".. auto{kind}:: {name}", *(["members"] if kind == "class" else []))


def rst(directive: str, *options: str) -> str:
    lines = [directive, *(f"   :{option}:" for option in options)]
    return "\n".join(["```{eval-rst}", *lines, "```"])


def of_commands() -> str:
    parts = ["# Commands", "What `--help` says of every command."]
    for names in ([], *_names({point.name: point.load() for point in _points()})):
        shown = " ".join(["influence", *names])
        parts.append(f"## {shown}\n\n```text\n{help_of(names)}```")
    return "\n\n".join(parts) + "\n"


def _points() -> list[Any]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _names(commands: Mapping[str, Any]) -> Iterator[list[str]]:
    """The words of every command, those of groups too."""
    for name, command in commands.items():
        yield [name]
        if isinstance(command, Group):
            yield from ([name, *inner] for inner in _names(command.commands))


def help_of(names: list[str]) -> str:
    """What `--help` prints after these words."""
    before, printed = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*names, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return printed.getvalue()
