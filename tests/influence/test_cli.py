"""The command line: finding commands, suggestions, exit codes and what goes to the terminal."""

import argparse
import errno
import importlib
import io
import json
import shlex
import signal
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from influence import __version__
from influence.cli import Command, Found
from influence.cli.document import show
from influence.cli.group import Group
from influence.cli.main import GROUP, main, parser_of
from influence.errors import InputError, StorageError

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


ERRORS: dict[str, BaseException] = {
    "badly": InputError("expected a table, got nothing; name one."),
    "wrongly": ZeroDivisionError("division\nby zero"),
    "full": OSError(errno.ENOSPC, "No space left on device", "out.csv"),
    "greedily": MemoryError("Unable to allocate 8 GiB"),
    "interrupted": KeyboardInterrupt(),
}


class Dropped:
    """A command whose interruption falls into a destructor, where Python drops it."""

    help = example = "is interrupted in a destructor"

    def __init__(self, sent: signal.Signals) -> None:
        self.sent = sent

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        pass

    def run(self, args: argparse.Namespace) -> None:
        sent = self.sent

        class Held:
            def __del__(self) -> None:
                signal.raise_signal(sent)
                for _ in range(1000):  # the handler runs between these
                    pass

        held = Held()
        del held
        time.sleep(5)

    def kept(self, args: argparse.Namespace) -> str:
        return "all is kept"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_in_a_destructor_is_not_lost(
    sent: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dropped"], {"dropped": Dropped(sent)}) == code
    assert capsys.readouterr().err == "interrupted; all is kept\n"


class Fake:
    """A command that ends as it is told to."""

    help = "ends as it is told to"
    example = "influence fake well"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("ending", choices=["well", "lost", "terminated", *ERRORS])

    def run(self, args: argparse.Namespace) -> Found:
        print("working")
        if args.ending in ERRORS:
            raise ERRORS[args.ending]
        if args.ending == "terminated":
            signal.raise_signal(signal.SIGTERM)
        results = pd.DataFrame({"row": [1, 2], "effect": [0.5, np.nan]})
        document = {"results": results, "largest": np.float64("inf"), "interval": (None, pd.NaT)}
        return Found("found: 2 rows", document, lambda: _written(args.ending))

    def kept(self, args: argparse.Namespace) -> str:
        return "all of it is kept; the same command goes on"


def _written(ending: str) -> list[Path]:
    if ending == "lost":
        raise StorageError("the disk is gone; find it.")
    return [Path("out") / "a.csv"]


COMMANDS = {"fake": Fake()}


def test_text_comes_before_files_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fake", "well"], COMMANDS) == 0
    assert capsys.readouterr().out == "working\nfound: 2 rows\nwritten: out/a.csv\n"
    assert main(["fake", "lost"], COMMANDS) == 2
    assert capsys.readouterr().out == "working\nfound: 2 rows\n"


@pytest.mark.parametrize(("ending", "code"), [("well", 0), ("lost", 2)])
def test_json_is_one_document_and_nothing_else(
    ending: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fake", ending, "--json"], COMMANDS) == code
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "format": 1,
        "command": "fake",
        "version": __version__,
        "arguments": {"ending": ending},
        "provenance": {},
        "queries": [],
        "results": [{"row": 1, "effect": 0.5}, {"row": 2, "effect": None}],
        "largest": None,
        "interval": [None, None],
        "written": ["out/a.csv"] if code == 0 else [],
    }
    assert captured.err.startswith("working\n")


@pytest.mark.parametrize(
    ("ending", "code", "line"),
    [
        ("badly", 2, "expected a table, got nothing; name one."),
        ("wrongly", 1, "unexpected ZeroDivisionError: division by zero; run again with --debug"
         " for the traceback, and report it"),
        ("full", 1, "No space left on device: out.csv; make room and give the same command again"),
        ("greedily", 1, "out of memory (Unable to allocate 8 GiB); ask about fewer queries at a"
         " time, or use a larger machine"),
    ],
)  # fmt: skip
def test_an_error_is_one_line(
    ending: str, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fake", ending], COMMANDS) == code
    assert capsys.readouterr().err == f"error: {line}\n"
    with pytest.raises(type(ERRORS[ending])):
        main(["fake", ending, "--debug"], COMMANDS)


@pytest.mark.parametrize(("ending", "code"), [("interrupted", 130), ("terminated", 143)])
def test_an_interruption_is_one_line(
    ending: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(["fake", ending], COMMANDS) == code
    told = capsys.readouterr().err
    assert told == "interrupted; all of it is kept; the same command goes on\n"
    assert signal.getsignal(signal.SIGTERM) is before


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
        (["group", "fake", "well"], 0),
        (["group", "fake", "badly"], 2),
        (["group", "fake", "interrupted"], 130),
    ],
)
def test_a_group_passes_on_to_its_commands(arguments: list[str], code: int) -> None:
    assert main(arguments, GROUPED) == code


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--quiet", "group", "--json", "fakke"], "'group fakke'; did you mean 'group fake'?"),
        (["group", "zzz", "well"], "'group zzz'; choose from fake."),
    ],
)
def test_an_unknown_inner_command_gets_a_suggestion(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments, GROUPED)
    assert ended.value.code == 2
    assert f"unknown command {hint}" in capsys.readouterr().err


@pytest.mark.parametrize("place", range(4))
def test_shared_options_stand_before_or_after_every_name(
    place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["group", "fake", "well"]
    arguments.insert(place, "--json")
    assert main(arguments, GROUPED) == 0
    assert json.loads(capsys.readouterr().out)["command"] == "group fake"


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
    commands = declared()
    for name, command in commands.items():
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"], commands)
        assert ended.value.code == 0
        assert command.help in " ".join(capsys.readouterr().out.split())


def test_every_command_has_the_shared_options_and_an_example_that_parses() -> None:
    commands = declared()
    parser = parser_of(commands)
    for words, command in leaves(commands):
        name, *call = shlex.split(command.example.replace("\\\n", " "))
        if words == ["completion"]:
            call = call[-1].strip(")").split()[1:]  # it stands in an eval
        else:
            assert name == "influence"
        assert call[: len(words)] == words
        args = parser.parse_args([*call, "--quiet", "--json", "--debug"])
        assert args.quiet and args.json and args.debug
        assert not command.kept(args).endswith(".") and "\n" not in command.kept(args)


def leaves(commands: Mapping[str, Command]) -> Iterator[tuple[list[str], Command]]:
    """Every command that does something, and the words that call it."""
    for name, command in commands.items():
        if isinstance(command, Group):
            yield from (([name, *words], inner) for words, inner in leaves(command.commands))
        else:
            yield [name], command


def declared() -> dict[str, Command]:
    """The commands that pyproject.toml names."""
    named = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"][GROUP]
    targets = {name: target.split(":") for name, target in named.items()}
    return {
        name: getattr(importlib.import_module(module), attribute)
        for name, (module, attribute) in targets.items()
    }


def test_a_reader_that_stops_loses_no_file(tmp_path):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    def write() -> list[Path]:
        (tmp_path / "result").touch()
        return [tmp_path / "result"]

    with pytest.raises(BrokenPipeError):
        show(Found("text", {}, write), argparse.Namespace(json=False), Closed())
    assert (tmp_path / "result").exists()
