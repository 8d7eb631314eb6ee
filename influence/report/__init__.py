"""Pages that people look at: one HTML file that opens offline and holds what it shows.

    from tree_influence import report               # a page about a model and its training rows
    report("report.html", LeafInfluence().fit(run), X_test, y_test)

The page receives arrays and text, never models. What a package knows of its own models it puts
into a `Page` (`influence.report.page`), and `write` makes the file.
"""

from influence.report.gather import Gathered, gather
from influence.report.page import Answer, Figure, Page, Rows, Suspects, Text, Without, write

__all__ = [
    "Answer",
    "Figure",
    "Gathered",
    "Page",
    "Rows",
    "Suspects",
    "Text",
    "Without",
    "gather",
    "write",
]
