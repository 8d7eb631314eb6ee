"""`measured`: how long a call takes, and how much memory."""

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import pandas as pd

from influence.result_html import result_html

T = TypeVar("T")

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


@dataclass(frozen=True, eq=False, repr=False)
class Measured(Generic[T]):
    """What a call returned, and what it cost.

    Attributes:
        result: What it returned.
        seconds: Wall time.
        peak_mib: Most memory the process held during the call, beyond what it held before, in MiB
            (1 MiB = 2**20 bytes). Where the kernel cannot restart its mark (other systems than
            Linux), only what the call held beyond all that came before it; NaN on Windows.
    """

    result: T
    seconds: float
    peak_mib: float

    def __repr__(self) -> str:
        return f"<Measured: {self.seconds:.3g} s, peak {self.peak_mib:.0f} MiB>"

    def _repr_html_(self) -> str:
        return result_html(repr(self)[1:-1], repr(self.result))

    def to_frame(self) -> pd.DataFrame:
        """One row: seconds and peak_mib."""
        return pd.DataFrame({"seconds": [self.seconds], "peak_mib": [self.peak_mib]})


def measured(function: Callable[[], T]) -> Measured[T]:
    """Calls a function once and measures it; worker processes are not counted.

    Args:
        function: Without arguments: `lambda: estimator.explain(X, y)`. Call it once before where
            the first call compiles.
    """
    _let_go_of_free_memory()
    with suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)
    before = _peak()
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    return Measured(result, seconds, _peak() - before)


def _let_go_of_free_memory() -> None:
    """Gives freed memory back to the system, or the call could use it without any being counted."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def _peak() -> float:
    """The mark: most memory this process has held, in MiB."""
    try:
        marks = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(marks["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):
        try:
            import resource
        except ImportError:  # Windows
            return float("nan")
        unit = 2**20 if sys.platform == "darwin" else 1024  # there in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
