"""Cost of projected gradients and of queries on language models, on one CPU thread.

    python -m benchmarks.llm_speed [--quick]

- **Build**: rows of every training example at p = 16, in units of the plain forward and backward
  pass (with weight gradients, as training does it) over the same batches in the same process. The
  floor is that pass without its weight gradients: two thirds of it.
- **bergson** (if it is installed) builds the same kind of rows of the same model and data through
  its Python API; it covers the linear layers inside the blocks only, and so do we in the column
  "same layers".
- **Query**: 16 queries against 10,000 rows in a store, their own gradients included. The floor is
  reading the rows once from the page cache.

- **Command**: the whole process of `influence llm build`, beside a process that imports torch and
  transformers, loads the same model and data and does the plain pass.

CPU seconds, the middle of three turns in which the alternatives follow each other. Writes
benchmarks/results/llm_speed.json and the table of benchmarks/README.md.
"""

import argparse
import importlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.tables import markdown, replace_part
from llm_influence import Kronecker, TracIn, trace
from llm_influence.losses import causal_lm
from llm_influence.rows import RowMap
from llm_influence.run import CheckpointRun

HERE = Path(__file__).parent
P, BATCH, VOCABULARY = 16, 16, 2_000
# Name: kind, width, layers, tokens.
MODELS = {
    "GPT-2 64 wide": ("gpt2", 64, 2, 64),
    "GPT-2 256 wide": ("gpt2", 256, 4, 128),
    "Llama 256 wide": ("llama", 256, 4, 128),
}


def model_of(kind: str, width: int, layers: int, tokens: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                n_embd=width, n_layer=layers, n_head=4, n_positions=tokens,
                vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0,
            )
        )  # fmt: skip
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width, num_hidden_layers=layers, intermediate_size=11 * width // 4,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=tokens,
            vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def examples(n: int, tokens: int) -> list[dict[str, Any]]:
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (n, tokens))
    return [{"input_ids": row.tolist()} for row in ids]


def plain_pass(run: CheckpointRun) -> None:
    """Forward and backward as training does it."""
    run.model.eval()
    for rows in run.batches(run.examples):
        run.model.zero_grad()
        run.loss(run.model, run.examples.batch(rows)).mean().backward()
    run.model.zero_grad()


def bergson_pass(run: CheckpointRun, folder: Path) -> Callable[[], None]:

    from datasets import Dataset

    bergson: Any = importlib.import_module("bergson")
    ids = [run.examples.batch([i])["input_ids"][0].tolist() for i in range(run.n_train)]
    rows = Dataset.from_dict({"input_ids": ids, "length": [len(one) for one in ids]})
    batches = [list(range(s, min(s + BATCH, len(ids)))) for s in range(0, len(ids), BATCH)]
    where = folder / "bergson"

    def collect() -> None:
        shutil.rmtree(where, ignore_errors=True)
        shutil.rmtree(f"{where}.part", ignore_errors=True)
        settings = bergson.IndexConfig(run_path=str(where), projection_dim=P)
        projector = bergson.GradientProcessor(projection_dim=P)
        bergson.collect_gradients(run.model, rows, projector, settings, batches=batches)

    return collect


def turns(alternatives: dict[str, Callable[[], None]], n: int) -> dict[str, float]:
    """Middle CPU seconds of each, taking turns after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for turn in range(n + 1):
        for name, run in alternatives.items():
            start = time.process_time()
            run()
            if turn:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def build_case(name: str, quick: bool, folder: Path) -> dict[str, Any]:
    kind, width, layers, tokens = MODELS[name]
    model = model_of(kind, width, layers, tokens)
    run = trace(model, examples(32 if quick else 128, tokens), batch_size=BATCH)
    inner = ["*attn*", "*mlp*"]
    same = trace(model, run.examples, batch_size=BATCH, modules=inner)
    all_rows, same_rows = RowMap(run, Kronecker(P)), RowMap(same, Kronecker(P))
    alternatives = {
        "plain": lambda: plain_pass(run),
        "ours": lambda: _use(all_rows.rows(0, run.examples)),
        "same layers": lambda: _use(same_rows.rows(0, run.examples)),
    }
    if find_spec("bergson") is not None:
        alternatives["bergson"] = bergson_pass(run, folder)
    taken = turns(alternatives, 1 if quick else 3)
    parameters = sum(p.numel() for p in model.parameters())
    result: dict[str, Any] = {
        "model": name, "parameters": parameters, "tokens": tokens,
        "plain pass, s": taken["plain"], "ours / plain": taken["ours"] / taken["plain"],
        "same layers / plain": taken["same layers"] / taken["plain"],
        "bytes a row": 4 * all_rows.width, "same layers, bytes a row": 4 * same_rows.width,
    }  # fmt: skip
    if "bergson" in taken:
        result["bergson / plain"] = taken["bergson"] / taken["plain"]
        made = next(iter(folder.glob("bergson*/*.bin")), None)
        if made is not None:
            result["bergson, bytes a row"] = made.stat().st_size // run.n_train
    return result


def query_case(quick: bool, folder: Path) -> dict[str, Any]:
    n = 500 if quick else 10_000
    kind, width, layers, _ = MODELS["GPT-2 256 wide"]
    model = model_of(kind, width, layers, 128)
    run = trace(model, examples(n, 16), batch_size=64)
    estimator = TracIn(Kronecker(P)).fit(run, store=folder / "store")
    asked = examples(16, 128)
    width_of = estimator.steps_[0].train_of.width

    def read() -> None:
        _use(torch.stack([block.sum() for _, block in estimator.steps_[0].train.blocks(0)]))

    taken = turns(
        {
            "query": lambda: _use(estimator.explain_top(asked, k=10)),
            "read": read,
            "plain": lambda: _use(run.losses(run.queries(asked))),
        },
        2 if quick else 3,
    )
    return {
        "rows": n, "columns": width_of, "queries": 16, "explain_top, s": taken["query"],
        "reading the rows, s": taken["read"], "the queries' forward pass, s": taken["plain"],
    }  # fmt: skip


def command_case(quick: bool, folder: Path) -> dict[str, Any]:
    """`influence llm build` as a process, beside a process that imports and does the plain pass."""
    kind, width, layers, tokens = MODELS["GPT-2 64 wide" if quick else "GPT-2 256 wide"]
    model: Any = model_of(kind, width, layers, tokens)
    model.save_pretrained(folder / "model")
    given = examples(32 if quick else 512, tokens)
    (folder / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in given))
    build = [
        "influence.cli.main", "llm", "build", "--model", str(folder / "model"), "--data",
        str(folder / "train.jsonl"), "--store", str(folder / "built"), "--quiet",
    ]  # fmt: skip
    plain = ["benchmarks.llm_speed", "--plain", str(folder)]
    taken = {"build": process_seconds(build), "plain": process_seconds(plain)}
    return {
        "command": "influence llm build", "examples": len(given), "tokens": tokens,
        "CPU s": taken["build"], "imports, loading and plain pass, CPU s": taken["plain"],
        "ratio": taken["build"] / taken["plain"],
    }  # fmt: skip


def process_seconds(module_and_arguments: list[str]) -> float:
    """CPU seconds of a Python process on one thread."""
    before = os.times()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", *module_and_arguments]
    subprocess.run(call, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


def plain_process(folder: Path) -> None:
    """What the build is compared with: the same model and data, read, and the plain pass."""
    from transformers import AutoModelForCausalLM

    given = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "model")
    model.eval()
    for start in range(0, len(given), BATCH):
        ids = torch.tensor([one["input_ids"] for one in given[start : start + BATCH]])
        model.zero_grad()
        causal_lm(model, {"input_ids": ids, "labels": ids}).mean().backward()


def _use(value: Any) -> None:
    """Takes what was made, so that making it can be a plain expression."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one turn; no table")
    parser.add_argument("--plain", type=Path, metavar="DIR", help="the plain pass alone, of the "
        "model and data that the benchmark put there")  # fmt: skip
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.plain is not None:
        plain_process(args.plain)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        names = list(MODELS)[:1] if args.quick else list(MODELS)
        builds = [build_case(name, args.quick, folder) for name in names]
        query = query_case(args.quick, folder)
        command = command_case(args.quick, folder)
    packages = [name for name in ("torch", "transformers", "bergson") if find_spec(name)]
    machine = {"processor": platform.machine(), "threads": 1, "p": P, "batch": BATCH} | {
        name: version(name) for name in packages
    }
    stored = {"machine": machine, "builds": builds, "query": query, "command": command}
    if args.quick:
        print(json.dumps(stored, indent=1))
        return
    (HERE / "results" / "llm_speed.json").write_text(json.dumps(stored, indent=1) + "\n")
    where = ", ".join(f"{name} {value}" for name, value in machine.items())
    tables = "\n\n".join(markdown(pd.DataFrame(rows)) for rows in (builds, [query], [command]))
    replace_part(HERE / "README.md", "llm speed", f"Measured with: {where}.\n\n{tables}")


if __name__ == "__main__":
    main()
