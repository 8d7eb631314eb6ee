"""The command `influence completion`: what makes a shell complete commands, options and paths."""

import argparse
from collections.abc import Iterator

from influence.cli import Found

SHELLS = ("bash", "zsh", "tcsh")
INSTALL = (
    'bash: put eval "$(influence completion bash)" into ~/.bashrc. '
    "zsh: influence completion zsh > DIR/_influence, in a folder of $fpath. "
    "tcsh: put eval `influence completion tcsh` into ~/.tcshrc."
)
FILES, FOLDERS = {"FILE", "MODEL", "PATH"}, {"DIR"}  # by what the help calls an argument


class Completion:
    """`influence completion`: a script for the shell, on standard output."""

    help = "print a script that completes commands, options and file names in a shell"
    example = 'eval "$(influence completion bash)"'

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = INSTALL
        parser.add_argument("shell", choices=SHELLS, help="your shell")

    def run(self, args: argparse.Namespace) -> Found:
        from influence.cli.main import installed, parser_of

        script = script_of(parser_of(installed()), args.shell)
        return Found(script, {"results": [{"shell": args.shell, "script": script}]})

    def kept(self, args: argparse.Namespace) -> str:
        return "nothing was to be kept"


def script_of(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a parser of all commands."""
    import shtab

    for action in _actions(parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for own in action.choices.values():
                yield from _actions(own)


completion = Completion()
