"""The `influence` command line. It knows no command itself.

A command is an object that an installed package names in its entry point group
`influence.commands`; it keeps the contract of `Command`.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


def _nothing() -> list[Path]:
    return []


@dataclass(frozen=True)
class Found:
    """What a command found. It is handed to `main`, which prints it, as text or as JSON.

    Attributes:
        text: What people read.
        document: What programs read, by name; `influence.cli.document` tells what it may hold.
        write: Writes files, if any, and says which; called when the text is out.
    """

    text: str
    document: Mapping[str, Any] = field(default_factory=dict)
    write: Callable[[], Sequence[Path]] = _nothing


class Command(Protocol):
    """One command. Importing its module must be cheap: `influence --help` imports all of them."""

    @property
    def help(self) -> str:
        """One line for the list of commands."""
        ...

    @property
    def example(self) -> str:
        """A call of it, for its help; one argument after another on as many lines as it takes."""
        ...

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the command's own arguments; may put remarks into `parser.epilog`.

        Those of `shared_options` are there already.
        """
        ...

    def run(self, args: argparse.Namespace) -> Found | None:
        """Does the work. An `InfluenceError` is left to `main`.

        What it prints itself is told while it works, and goes to standard error under --json.

        Returns:
            What it found; None where another process speaks for this one.
        """
        ...

    def kept(self, args: argparse.Namespace) -> str:
        """What an interrupted run leaves, and how to go on: part of a line for the user."""
        ...


def shared_options(default: bool | str) -> argparse.ArgumentParser:
    """A parent of every parser: the options of all commands, with their default."""
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("options of every command")
    for name, told in (
        ("--quiet", "no progress bars, only results"),
        ("--json", "print one JSON document and nothing else to standard output"),
        ("--debug", "show the traceback of an error"),
    ):
        group.add_argument(name, action="store_true", default=default, help=told)
    return shared


def add_commands(
    parser: argparse.ArgumentParser,
    commands: Mapping[str, Command],
    name: str,
    shared: argparse.ArgumentParser,
    required: bool,
) -> None:
    """Declares commands, with their help.

    Args:
        parser: What they are commands of.
        commands: By name.
        name: Where the parsed arguments hold the name of the one that is called.
        shared: Options of all.
        required: One of them must be called.
    """
    from textwrap import fill, indent

    listed = parser.add_subparsers(
        title="commands", dest=name, metavar="COMMAND", required=required
    )
    for called, command in commands.items():
        own = listed.add_parser(
            called, help=command.help, description=command.help, parents=[shared],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_arguments(own)
        example = "example:\n" + indent(command.example, "  ") if command.example else ""
        remarks = fill(own.epilog, 78) if own.epilog else ""
        own.epilog = "\n\n".join(part for part in (example, remarks) if part)
