"""The documentation: its code runs, its commands parse, its pages link, and nothing is missing.

`make docs` builds it; here it is only read.
"""

import inspect
import re
import shlex
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.generate.docstrings import as_rst
from docs.generate.figures import all_tables, belongs, figures
from docs.generate.methods import METHODS, Method
from docs.generate.pages import all_pages
from influence import Estimator
from influence.cli.main import installed, parser_of

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WRITTEN = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("[!_]*.md"))
WRITTEN = [name for name in WRITTEN if not name.startswith("_")]

# What the code of a page promises its reader, after it ran.
PROMISED = {
    "start.md": lambda s: s["top"]["train"].tolist() in ([0, 1], [1, 0]),
    "howto/mislabelled.md": lambda s: s["found"].roc_auc > 0.9,
    "howto/explain.md": lambda s: np.isfinite(s["really"]).all() and s["owed"].flipped,
    "howto/choose.md": lambda s: len(s["judged"].to_frame()) == 4,
    "howto/fine_tuning.md": lambda s: s["worst"] == [1] and s["retrain"](s["Without"]([1])) < -0.5,
    "howto/order.md": lambda s: 0 <= s["found"].rank <= 6 and s["order"] is not None,
    "howto/cluster.md": lambda s: len(list(Path("retrained").iterdir())) == 10,
    "howto/add_method.md": lambda s: len(s["shared"].explain(s["X"][:20], s["y"][:20]).values),
}


def blocks(name: str, language: str) -> list[str]:
    text = (DOCS / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@cache
def generated() -> dict[str, str]:
    made = all_pages()
    return {f"_made/{name}": text for name, text in made.items() if "included/" not in name}


def test_every_page_with_code_is_run_here():
    assert PROMISED.keys() == {name for name in WRITTEN if blocks(name, "python")}


@pytest.mark.parametrize("name", PROMISED)
def test_the_code_of_a_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for block in blocks(name, "python"):
        exec(compile(block, name, "exec"), scope)
    assert PROMISED[name](scope)


COMMANDS = [
    (name, line)
    for name in WRITTEN
    for block in blocks(name, "bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_a_command_of_a_page_is_one(name, line):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        return
    if words[0] == "pip":
        return
    start = words.index("influence.cli.main" if words[0] == "torchrun" else "influence") + 1
    parsed = parser_of(installed()).parse_args(words[start:])  # exits where there is no such option
    assert parsed.command == words[start]


def test_every_estimator_has_a_page():
    missing = [
        f"{package}.{name}"
        for package in ("tree_influence", "llm_influence")
        for name in import_module(package).__all__
        if inspect.isclass(found := getattr(import_module(package), name))
        and issubclass(found, Estimator)
        and f"{package}.{name}" not in {method.name for method in METHODS}
    ]
    assert not missing, f"add a line to docs/methods.toml for {missing}"


def test_every_public_name_is_in_the_reference():
    for package in ("influence", "tree_influence", "llm_influence"):
        page = generated()[f"_made/api/{package}.md"]
        for name in import_module(package).__all__:
            assert name == "__version__" or f"## {name}\n" in page or f"[{name}]" in page, name


def links(name: str, text: str) -> set[str]:
    """Pages that a page links to, by their paths in the folder of documentation; no pictures."""
    prose = re.sub(r"```.*?```|!\[[^]]*\]\([^)]*\)", "", text, flags=re.DOTALL)
    found = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    return {inside(name, target) for target in found}


def toctree(name: str, text: str) -> set[str]:
    listed = "\n".join(re.findall(r"```\{toctree\}\n(.*?)```", text, flags=re.DOTALL))
    entries = [line for line in listed.splitlines() if line and not line.startswith(":")]
    return {inside(name, entry.removesuffix(".md") + ".md") for entry in entries}


def inside(name: str, target: str) -> str:
    path = (DOCS / name).parent / target
    return path.resolve().relative_to(DOCS.resolve()).as_posix()


def test_pages_link_to_pages_that_are_there_and_all_are_listed():
    pages = {name: (DOCS / name).read_text(encoding="utf-8") for name in WRITTEN} | generated()
    for name, text in pages.items():
        lost = links(name, text) - pages.keys()
        assert not lost, f"{name} links to {lost}"
    listed = {entry for name, text in pages.items() for entry in toctree(name, text)}
    assert listed == pages.keys() - {"index.md"}


def test_every_measured_name_belongs_to_one_method():
    for table in all_tables():
        for name in table.frame.iloc[:, 0]:
            owners = [m.short for m in METHODS if m.package == table.package and belongs(m, name)]
            kin = {"SampleOrder"} & set(owners)  # has the figures of its methods on its page, too
            alone = {"seed floor", "chance"}  # no methods
            assert len(set(owners) - kin) == (name not in alone), f"{name} is of {owners}"


def test_figures_are_those_of_the_results():
    method = next(m for m in METHODS if m.name == "tree_influence.BoostIn")
    (study,) = [t for t in all_tables() if t.title == "Study, small: agreement with retraining"]
    lds = study.frame.set_index("method").loc["boostin", "lds"]
    assert f"| boostin | {lds:.3g} |" in figures(method)
    unknown = Method("tree_influence", "TreeRun", "A class that nothing measures.")
    assert figures(unknown) == "Nothing is measured of it yet."


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("Sum of |g_i|, w_ and `a`s.", "Sum of \\|g_i\\|, w\\_ and `a`\\ s."),
        ("Says `f(x=1)` once.", "Says ``f(x=1)`` once."),
        ("Cost: O(n).\nWrong where.", "**Cost:** O(n).\n\n**Wrong** where."),
        ("values[i, q] = sum_t *x*", ".. code-block:: text\n\n   values[i, q] = sum_t *x*"),
        ("Args:\n    *rows: Of |x|.", "Args:\n    *rows: Of \\|x\\|."),
    ],
)
def test_docstrings_are_plain_text(told, expected):
    assert "\n".join(as_rst(told.split("\n"))).strip() == expected


def test_help_of_every_option_is_on_the_page_of_commands():
    page = generated()["_made/commands.md"]
    for option in ("--allow-inexact", "--rerank N", "--warmup STEPS", "--anyway"):
        assert option in page
    assert "## influence order memorisation" in page
