"""The command `influence llm`, made of `build` and `query`.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

from influence.cli.group import Group
from llm_influence.build_commands import Build
from llm_influence.query_commands import Query

llm = Group(
    "which training examples made this language model say that",
    {"build": Build(), "query": Query()},
)
