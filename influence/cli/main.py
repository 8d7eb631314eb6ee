"""The console script `influence`: finds the commands, reads the arguments, reports errors.

Exit codes: the command's own, 2 for wrong arguments and for every `InfluenceError`, 130 when
interrupted.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points

from influence import __version__
from influence.cli import Command, shared_options
from influence.errors import InfluenceError

GROUP = "influence.commands"


def main(argv: Sequence[str] | None = None, commands: Mapping[str, Command] | None = None) -> int:
    """Runs one command and returns the exit code.

    Args:
        argv: Arguments without the program's name; those of the process by default.
        commands: Commands by name; the installed ones by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = _installed() if commands is None else commands
    parser = _parser(known)
    _check_name(parser, arguments, known)
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return 0
    return _run(known[args.command], args)


def _installed() -> dict[str, Command]:
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return {point.name: point.load() for point in found}


def _parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="influence",
        description="Which training examples made this model say that?",
        epilog="`influence COMMAND --help` explains one command.",
    )
    parser.add_argument("--version", action="version", version=f"influence {__version__}")
    shared = shared_options(default=False)
    listed = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, command in commands.items():
        own = listed.add_parser(name, help=command.help, description=command.help, parents=[shared])
        command.add_arguments(own)
    return parser


def _check_name(
    parser: argparse.ArgumentParser, arguments: Sequence[str], known: Iterable[str]
) -> None:
    """Ends with a suggestion where the first argument names no command."""
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    if name is None or name in known:
        return
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}."
    parser.error(f"unknown command {name!r}; {hint}")


def _run(command: Command, args: argparse.Namespace) -> int:
    try:
        code = command.run(args)
        sys.stdout.flush()
        return code
    except InfluenceError as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        sys.stdout = None
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
