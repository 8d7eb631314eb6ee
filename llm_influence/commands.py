"""The command `influence llm`, made of `build`, `query` and `quickstart`.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

from influence.cli.group import Group
from influence.cli.quickstart import Quickstart
from llm_influence.build_commands import Build
from llm_influence.query_commands import Query

quickstart = Quickstart(
    "train a tiny GPT on made-up facts, ask it, find the sources of its answers",
    "influence llm quickstart --seed 1",
    "llm_influence.quickstart",
    "the facts, the weights and the batches",
)
llm = Group(
    "which training examples made this language model say that",
    {"build": Build(), "query": Query(), "quickstart": quickstart},
)
