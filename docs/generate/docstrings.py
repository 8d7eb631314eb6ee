"""Docstrings, which are plain text with `names`, as what Sphinx reads: reStructuredText."""

import re
from collections.abc import Iterator

# A section of Google style: its lines are left to napoleon, but for characters of markup.
SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
# What begins a paragraph of its own.
LEAD = re.compile(r"(Sign|Unit|Cost|Memory|Wrong|Refused|References?|Answers)\b:?")
FORMULA = re.compile(r"[\w'^]{1,12}(\[\w, \w\])? = ")
ENTRY = re.compile(r"( {4}\*{0,2}\w+: )(.*)")  # an argument and what is told of it
NAME = re.compile(r"(`[^`]+`)")
MARKUP = re.compile(r"(\\|\||\*|_(?=\W|$))")


def as_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText."""
    return [line for part in _parts(lines) for line in [*_written(part), ""]]


def _parts(lines: list[str]) -> Iterator[list[str]]:
    """Sections with all their lines, and paragraphs; a line with a lead begins another."""
    part: list[str] = []
    for line in lines:
        if part and SECTION.match(part[0]):
            ends = bool(line.strip()) and not line.startswith(" ")
        else:
            ends = not line.strip() or bool(LEAD.match(line) or SECTION.match(line))
        if ends and part:
            yield part
            part = []
        if line.strip() or part:
            part.append(line)
    if part:
        yield part


def _written(part: list[str]) -> list[str]:
    first = part[0]
    if first == "Returns:":  # napoleon would take what stands before a colon for a type
        return f"**Returns:** {_escaped(' '.join(line.strip() for line in part[1:]))}".split("\n")
    if SECTION.match(first):
        return [first, *map(_entry, part[1:])]
    if first.startswith((" ", "|")) or FORMULA.match(first):
        margin = min(len(line) - len(line.lstrip()) for line in part)
        return [".. code-block:: text", "", *("   " + line[margin:] for line in part)]
    lead = LEAD.match(first)
    told = _escaped("\n".join(part)[lead.end() if lead else 0 :])
    return (f"**{lead[0]}**{told}" if lead else told).split("\n")


def _entry(line: str) -> str:
    entry = ENTRY.match(line)
    return entry[1] + _escaped(entry[2]) if entry else _escaped(line)


def _escaped(text: str) -> str:
    """Text without markup but for `names`: linked where they are documented, or else code."""
    parts = NAME.split(text)
    parts[::2] = [MARKUP.sub(r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [
        part if re.fullmatch(r"`[\w.]+`", part) else f"`{' '.join(part.split())}`"
        for part in parts[1::2]
    ]
    return re.sub(r"(?<=\w`)(?=\w)", r"\\ ", "".join(parts))  # the s of "`Change`s"
