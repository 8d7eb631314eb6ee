"""A command made of commands: `influence llm build`, `influence llm query`."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from influence.cli import Command, shared_options
from influence.errors import MissingPackageError


@dataclass(frozen=True)
class Group:
    """Commands under one name; itself a `Command`.

    Attributes:
        help: One line for the list of commands.
        commands: The commands by name.
        extra: The extra of this toolkit that brings what the commands import.
        packages: The packages it brings.
    """

    help: str
    commands: Mapping[str, Command]
    extra: str = ""
    packages: Sequence[str] = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        listed = parser.add_subparsers(
            title="commands", dest="inner_command", metavar="COMMAND", required=True
        )
        shared = shared_options(argparse.SUPPRESS)  # what was given before the name stands
        for name, command in self.commands.items():
            own = listed.add_parser(
                name, help=command.help, description=command.help, parents=[shared]
            )
            command.add_arguments(own)

    def run(self, args: argparse.Namespace) -> int:
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
