"""The commands `influence llm` called in process, on files in the working directory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from influence.cli.main import main
from llm_influence.commands import llm

ROOT = Path(__file__).parents[2]
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "the",
    "mat",
    "what",
    "is",
    "the",
    "answer",
    "it",
    "is",
    "4",
    "a",
    "dog",
    "ran",
]
CALL = """
import sys
from influence.cli.main import main
from llm_influence.commands import llm
sys.exit(main(sys.argv[1:], {"llm": llm}))
"""


def texts(n: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    picked = (rng.choice(WORDS, rng.integers(3, 7)) for _ in range(n))
    return [{"text": " ".join(words), "name": f"doc{i}"} for i, words in enumerate(picked)]


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def build(*more: str, data: str = "train.jsonl", store: str = "store") -> int:
    return main(
        ["llm", "build", "--model", "model", "--data", data, "--store", store, *more], {"llm": llm}
    )


def query(*more: str, store: str = "store") -> int:
    return main(["llm", "query", "--store", store, "--queries", "asked.jsonl", *more], {"llm": llm})


def contents(store: Path) -> dict[str, bytes]:
    found = [p for p in store.rglob("*") if p.is_file() and p.name != "influence.json"]
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in found}


def loaded() -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained("model"), AutoTokenizer.from_pretrained("model")
