"""The command line: finding commands, suggestions, exit codes and what goes to the terminal."""

import argparse
import importlib
import tomllib
from pathlib import Path

import pytest

from influence import __version__
from influence.cli.group import Group
from influence.cli.main import GROUP, main
from influence.errors import InputError

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


class Fake:
    """A command that ends as it is told to."""

    help = "ends as it is told to"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("ending", choices=["well", "badly", "interrupted"])

    def run(self, args: argparse.Namespace) -> int:
        if args.ending == "badly":
            raise InputError("expected a table, got nothing; name one.")
        if args.ending == "interrupted":
            raise KeyboardInterrupt
        return 0 if args.quiet else 7


COMMANDS = {"fake": Fake()}


def test_the_exit_code_is_the_commands_own() -> None:
    assert main(["fake", "well"], COMMANDS) == 7
    assert main(["fake", "well", "--quiet"], COMMANDS) == 0


def test_a_known_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fake", "badly"], COMMANDS) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: expected a table, got nothing; name one.\n"
    assert captured.out == ""


def test_debug_lets_a_known_error_through() -> None:
    with pytest.raises(InputError):
        main(["fake", "badly", "--debug"], COMMANDS)


def test_an_interruption_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fake", "interrupted"], COMMANDS) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("name", "hint"), [("fakke", "did you mean 'fake'?"), ("zzz", "choose from fake.")]
)
def test_an_unknown_command_gets_a_suggestion(
    name: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "well"], COMMANDS)
    assert ended.value.code == 2
    assert f"unknown command {name!r}; {hint}" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments, COMMANDS)
    except SystemExit as ended:
        code = ended.code
    assert code == 0
    listed = capsys.readouterr().out
    assert "fake" in listed and Fake.help in listed


GROUPED = {"group": Group("several", {"fake": Fake()})}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["group", "fake", "well"], 7),
        (["group", "fake", "well", "--quiet"], 0),
        (["group", "--quiet", "fake", "well"], 0),
        (["group", "fake", "badly"], 2),
    ],
)
def test_a_group_passes_on_to_its_commands(arguments: list[str], code: int) -> None:
    assert main(arguments, GROUPED) == code


@pytest.mark.parametrize("arguments", [["group"], ["group", "other"]])
def test_a_group_needs_a_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments, GROUPED)
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"], COMMANDS)
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"influence {__version__}\n"


def test_declared_commands_keep_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"][GROUP]
    commands = {}
    for name, target in declared.items():
        module, _, attribute = target.partition(":")
        commands[name] = getattr(importlib.import_module(module), attribute)
    for name, command in commands.items():
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"], commands)
        assert ended.value.code == 0
        assert command.help in " ".join(capsys.readouterr().out.split())
