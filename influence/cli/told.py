"""Errors as one line for the user."""

import errno

from influence.errors import InfluenceError

WHAT_TO_DO = {
    errno.ENOSPC: "make room and give the same command again",
    errno.EDQUOT: "make room and give the same command again",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EPERM: "choose another place, or change its permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.EMFILE: "allow more open files (ulimit -n)",
}


def told(error: Exception) -> str:
    """What happened and what to do; an error that nobody expected is one to report."""
    if isinstance(error, InfluenceError):
        return str(error)
    name, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":  # the latter is torch's
        why = f" ({text})" if text else ""
        return f"out of memory{why}; ask about fewer queries at a time, or use a larger machine"
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        where = "" if error.filename is None else f": {error.filename}"
        advice = WHAT_TO_DO.get(error.errno, "run again with --debug to see where")
        return f"{error.strerror}{where}; {advice}"
    return (
        f"unexpected {name}{': ' if text else ''}{text}; run again with --debug for the traceback, "
        "and report it"
    )
