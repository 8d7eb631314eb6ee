"""A command made of commands: `influence llm build`, `influence llm query`."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from influence.cli import Command, Found, add_commands, shared_options
from influence.errors import MissingPackageError


@dataclass(frozen=True)
class Group:
    """Commands under one name; itself a `Command`.

    Attributes:
        help: One line for the list of commands.
        commands: The commands by name.
        extra: The extra of this toolkit that brings what the commands import.
        packages: The packages it brings.
        example: The calls that one begins with.
    """

    help: str
    commands: Mapping[str, Command]
    extra: str = ""
    packages: Sequence[str] = ()
    example: str = ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        shared = shared_options(argparse.SUPPRESS)  # what was given before the name stands
        add_commands(parser, self.commands, "inner_command", shared, required=True)
        parser.epilog = f"`{parser.prog} COMMAND --help` explains one command."

    def run(self, args: argparse.Namespace) -> Found | None:
        try:
            return self.commands[args.inner_command].run(args)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in self.packages:
                raise
            raise MissingPackageError(
                f"This command needs {package}, which is not installed: "
                f"pip install 'influence-toolkit[{self.extra}]'."
            ) from error

    def kept(self, args: argparse.Namespace) -> str:
        return self.commands[args.inner_command].kept(args)
