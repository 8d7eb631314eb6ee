"""A command made of commands: `influence llm build`, `influence llm query`."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from influence.cli import Command, shared_options


@dataclass(frozen=True)
class Group:
    """Commands under one name; itself a `Command`.

    Attributes:
        help: One line for the list of commands.
        commands: The commands by name.
    """

    help: str
    commands: Mapping[str, Command]

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
        return self.commands[args.inner_command].run(args)
