"""The `influence` command line. It knows no command itself.

A command is an object that an installed package names in its entry point group
`influence.commands`; it keeps the contract of `Command`.
"""

import argparse
from typing import Protocol


class Command(Protocol):
    """One command. Importing its module must be cheap: `influence --help` imports all of them."""

    @property
    def help(self) -> str:
        """One line for the list of commands."""
        ...

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the command's own arguments.

        `--quiet` (`args.quiet`: no progress bars) and `--debug` (`args.debug`) are there already.
        """
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Does the work and returns the exit code. An `InfluenceError` is left to `main`."""
        ...


def shared_options(default: bool | str) -> argparse.ArgumentParser:
    """A parent of every command's parser: `--quiet` and `--debug`, with their default."""
    shared = argparse.ArgumentParser(add_help=False)
    for name, told in (
        ("--quiet", "no progress bars, only results"),
        ("--debug", "show the traceback of an error"),
    ):
        shared.add_argument(name, action="store_true", default=default, help=told)
    return shared
