"""`influence completion`: the scripts are ones that shells take, and they complete."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from influence.cli import main as cli
from influence.cli.completion import SHELLS
from tests.influence.test_cli import declared

TYPED = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_influence
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def bash() -> str:
    found = shutil.which("bash")
    if found is None:
        pytest.skip("there is no bash here")
    return found


@pytest.fixture
def script(tmp_path, monkeypatch, capsys) -> Path:
    """A folder with a file and a folder in it, and the script for bash."""
    monkeypatch.setattr(cli, "installed", declared)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").touch()
    (tmp_path / "trained").mkdir()
    assert cli.main(["completion", "bash"]) == 0
    path = tmp_path / "script"
    path.write_text(capsys.readouterr().out)
    return path


def test_bash_takes_the_script(bash, script):
    assert subprocess.run([bash, "-n", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("influence ex", {"explain"}),
        ("influence order c", {"compare", "curriculum"}),
        ("influence explain model.txt --tra", {"--train"}),
        ("influence llm query --to", {"--top", "--tokens"}),
        ("influence explain model.txt --method averaged_", {"averaged_leaf", "averaged_split"}),
        ("influence explain model.txt --train tr", {"train.csv", "trained"}),
        ("influence explain tr", {"train.csv", "trained"}),
        ("influence llm query --store tr", {"trained"}),
        ("influence completion z", {"zsh"}),
    ],
)
def test_bash_completes(words, expected, bash, script):
    typed = TYPED.format(script=script, words=words)
    ended = subprocess.run([bash, "-c", typed], capture_output=True, text=True, check=True)
    assert {line.rstrip("/ ") for line in ended.stdout.split("\n")} - {""} == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script_that_it_takes(shell, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "installed", declared)
    assert cli.main(["completion", shell, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["shell"] == shell and "curriculum" in found["script"]
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here to read it")
    (tmp_path / "script").write_text(found["script"])
    assert subprocess.run([shell, "-n", tmp_path / "script"], check=False).returncode == 0
