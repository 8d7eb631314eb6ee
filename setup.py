"""Names the packages; everything else about the distribution is in pyproject.toml.

The list is explicit so that `datasets`, `benchmarks` and `tests` are never installed.
"""

from setuptools import setup

setup(
    packages=[
        "influence",
        "influence.cli",
        "influence.report",
        "tree_influence",
        "tree_influence.adapters",
        "llm_influence",
        "llm_influence.order",
    ],
    package_data={
        "influence": ["py.typed", "report/assets/*"],
        "tree_influence": ["py.typed"],
        "llm_influence": ["py.typed"],
    },
)
