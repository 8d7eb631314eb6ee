"""A command made of commands: `influence llm build`, `influence llm query`."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from influence.cli import Command, Found, add_commands, shared_options


@dataclass(frozen=True)
class Group:
    """Commands under one name; itself a `Command`.

    Attributes:
        help: One line for the list of commands.
        commands: The commands by name.
        example: The calls that one begins with.
    """

    help: str
    commands: Mapping[str, Command]
    example: str = ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        shared = shared_options(argparse.SUPPRESS)  # what was given before the name stands
        add_commands(parser, self.commands, "inner_command", shared, required=True)
        parser.epilog = f"`{parser.prog} COMMAND --help` explains one command."

    def run(self, args: argparse.Namespace) -> Found | None:
        return self.commands[args.inner_command].run(args)

    def kept(self, args: argparse.Namespace) -> str:
        return self.commands[args.inner_command].kept(args)
