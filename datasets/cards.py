"""Writes one card for each data set to datasets/cards/, from the registry."""

from pathlib import Path

from registry import DataSet, data_sets

CARDS = Path(__file__).with_name("cards")


def card(entry: DataSet) -> str:
    """The card of a data set, in Markdown."""
    features = f"{entry.n_features}"
    if entry.categorical:
        listed = ", ".join(f"`{column}`" for column in entry.categorical)
        features += f", {len(entry.categorical)} of them categorical: {listed}"
    ship = "may be redistributed" if entry.may_ship else "not to be redistributed with a package"
    home = (
        f"scikit-learn, `sklearn.datasets.{entry.bundled}`"
        if entry.bundled
        else f"{entry.source}; read from `INFLUENCE_DATA/datasets/tabular/{entry.name}.csv.gz`"
    )
    facts = {
        "task": entry.task,
        "target": f"`{entry.target}` ({entry.target_values})",
        "rows": f"{entry.n_rows:,}",
        "features": features,
        "missing cells": f"{entry.n_missing:,}",
        "licence": f"{entry.licence}; {ship}",
        "from": home,
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    parts = [f"# {entry.name}", entry.description, "\n".join(["| | |", "|---|---|", *rows])]
    return "\n\n".join([*parts, *([entry.note] if entry.note else [])]) + "\n"


if __name__ == "__main__":
    for entry in data_sets().values():
        CARDS.joinpath(f"{entry.name}.md").write_text(card(entry), encoding="utf-8")
