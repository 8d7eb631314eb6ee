"""The console script `influence`: finds the commands, reads the arguments, reports errors.

Exit codes: 0; 2 for wrong arguments and for every `InfluenceError`; 1 for any other error; 130
when interrupted, 143 when terminated.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from influence import __version__
from influence.cli import Command, add_commands, shared_options
from influence.cli.group import Group
from influence.errors import InfluenceError
from influence.extras import extras_named

GROUP = "influence.commands"


def main(argv: Sequence[str] | None = None, commands: Mapping[str, Command] | None = None) -> int:
    """Runs one command and returns the exit code.

    Args:
        argv: Arguments without the program's name; those of the process by default.
        commands: Commands by name; the installed ones by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = installed() if commands is None else commands
    parser = parser_of(known)
    _check_name(parser, arguments, known)
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return 0
    return _run(known[args.command], args)


def installed() -> dict[str, Command]:
    """The commands of all installed packages, by name."""
    from importlib.metadata import entry_points

    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return {point.name: point.load() for point in found}


def parser_of(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of all arguments of some commands."""
    parser = argparse.ArgumentParser(
        prog="influence",
        description="Which training examples made this model say that?",
        epilog="`influence COMMAND --help` explains one command. Begin with `influence quickstart` "
        "(trees), `influence llm quickstart` or `influence order quickstart`.",
        parents=[shared_options(default=False)],
    )
    parser.add_argument("--version", action="version", version=f"influence {__version__}")
    shared = shared_options(argparse.SUPPRESS)  # what was given before the name stands
    add_commands(parser, commands, "command", shared, required=False)
    return parser


def _check_name(
    parser: argparse.ArgumentParser, arguments: Sequence[str], known: Mapping[str, Command]
) -> None:
    """Ends with a suggestion where a command's name is none."""
    before = ""
    for name in (argument for argument in arguments if not argument.startswith("-")):
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, known, n=1)
            choice = f"choose from {', '.join(known)}."
            hint = f"did you mean {before + close[0]!r}?" if close else choice
            parser.error(f"unknown command {before + name!r}; {hint}")
        command = known[name]
        if not isinstance(command, Group):
            return
        before, known = f"{before}{name} ", command.commands


class _Terminated(KeyboardInterrupt):
    """The process was asked to end."""


def _run(command: Command, args: argparse.Namespace) -> int:
    try:
        with _interruptible(), extras_named():
            _answer(command, args)
        return 0
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        sys.stdout = None
        return 0
    except KeyboardInterrupt as error:
        print(f"interrupted; {command.kept(args)}", file=sys.stderr)
        return 143 if isinstance(error, _Terminated) else 130
    except Exception as error:
        if args.debug:
            raise
        from influence.cli.told import told

        print(f"error: {told(error)}", file=sys.stderr)
        return 2 if isinstance(error, InfluenceError) else 1


def _answer(command: Command, args: argparse.Namespace) -> None:
    out = sys.stdout
    aside = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
    with aside:  # libraries print, too
        found = command.run(args)
        if found is not None:
            from influence.cli.document import show

            show(found, args, out)
    out.flush()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends what is done inside as Ctrl-C does, and neither is lost.

    Python drops an exception that falls into a destructor: the signal is then sent once more.
    """
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _Terminated

    def dropped(what: Any) -> None:
        if not isinstance(what.exc_value, KeyboardInterrupt):
            hook(what)
            return
        number = signal.SIGTERM if isinstance(what.exc_value, _Terminated) else signal.SIGINT
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    before, hook = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook


if __name__ == "__main__":
    sys.exit(main())
