"""What a user gets from the wheel: its files, its commands, and its errors for what is missing.

`python -m tests.wheel dist`, after `python -m build --outdir dist`. It installs the one wheel of
that folder into a new environment and calls it from an empty folder, so that no file of the
repository can stand in for one that the wheel lacks.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
PACKAGES = ("influence", "tree_influence", "llm_influence")
EXTRAS = "lightgbm,report"

IMPORTS = """
import influence, tree_influence, llm_influence
for package in (influence, tree_influence, llm_influence):
    assert "site-packages" in package.__file__, package.__file__
for name in influence.__all__:
    getattr(influence, name)
for name in tree_influence.__all__:
    getattr(tree_influence, name)
"""
XGBOOST = '{"learner": {}}'

# Arguments of `influence` or code for Python, and what is to be read in what it prints.
WORKS = [
    (["--version"], "influence "),
    (["--help"], "quickstart"),
    (["completion", "bash"], "_influence"),
    (["quickstart", "--report", "page.html"], "written: page.html"),
    (IMPORTS, ""),
]
REFUSED = [
    (["llm", "quickstart"], "influence-toolkit[llm]"),
    (["order", "quickstart"], "influence-toolkit[llm]"),
    ("from llm_influence import trace", "influence-toolkit[llm]"),
    ("from tree_influence.adapters import load; load('model.json')", "influence-toolkit[xgboost]"),
    ("from influence.tables import read_table; read_table('rows.pq')", "influence-toolkit[trees]"),
]


def installed_files() -> set[str]:
    """The files of the packages, as paths within the repository."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def check_files(wheel: Path, sdist: Path) -> None:
    """The wheel is the packages as they lie here; the source distribution adds what builds them."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        changed = [name for name in held if archive.read(name) != (ROOT / name).read_bytes()]
    expected = installed_files()
    assert held == expected, f"the wheel and the packages differ: {sorted(held ^ expected)}"
    assert not changed, f"built from other files than these: {changed}"
    with tarfile.open(sdist) as archive:
        paths = [PurePosixPath(item.name) for item in archive.getmembers() if item.isfile()]
    inside = {"/".join(path.parts[1:]) for path in paths}
    more = {
        name for name in inside - expected if not name.startswith("influence_toolkit.egg-info/")
    }
    assert expected <= inside, f"the source distribution lacks {sorted(expected - inside)}"
    allowed = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg",
               "setup.py"}  # fmt: skip
    assert more == allowed, f"the source distribution holds other files: {sorted(more ^ allowed)}"


def check_calls(wheel: Path, folder: Path) -> None:
    """Installs the wheel below a folder and calls what works, and what must be refused."""
    binaries = folder / "environment" / "bin"
    venv.create(binaries.parent, with_pip=True)
    options = ["-qq", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    wanted = f"{wheel.resolve()}[{EXTRAS}]"
    subprocess.run([binaries / "python", "-m", "pip", "install", *options, wanted], check=True)
    here = folder / "empty"
    here.mkdir()
    (here / "model.json").write_text(XGBOOST)
    for call, expected in WORKS:
        check_call(binaries, here, call, expected, refused=False)
    for call, expected in REFUSED:
        check_call(binaries, here, call, expected, refused=True)
    page = (here / "page.html").stat().st_size
    assert page > 1_000_000, f"a page holds plotly, which is larger than its {page} bytes"


def check_call(
    binaries: Path, here: Path, call: str | Sequence[str], expected: str, *, refused: bool
) -> None:
    """One call: its exit code, and what its output must hold."""
    is_code = isinstance(call, str)
    command = [binaries / "python", "-c", call] if is_code else [binaries / "influence", *call]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(
        command, cwd=here, env=clean, capture_output=True, text=True, check=False
    )
    code = (1 if is_code else 2) if refused else 0
    told = ended.stdout + ended.stderr
    assert ended.returncode == code and expected in told, (
        f"{call!r} ended with {ended.returncode} instead of {code}, or did not say {expected!r}:\n"
        f"{told[-3000:]}"
    )
    assert is_code or "Traceback" not in told, told


def main(folder: str) -> None:
    (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    check_files(wheel, sdist)
    with tempfile.TemporaryDirectory() as place:
        check_calls(wheel, Path(place))
    print(f"{wheel}: {len(installed_files())} files; {len(WORKS)} calls answered, "
          f"{len(REFUSED)} refused by name")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
