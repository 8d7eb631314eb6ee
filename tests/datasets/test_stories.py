"""stories260K as it is documented: its tokens, its story, and its arithmetic."""

import json
import struct

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from stories import ModelFileError, llama, stories260k
from tests.reference import sentence_pieces

STORY = """\
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. \
One day, she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. \
She said, "I want to play with your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she said, "I'm sorry, mom. I didn't know what to do." \
Her mom said, "Don't worry, Lily. We can help you"""  # doc/stories260K.md of llama2.c

TEXTS = [
    "Once upon a time", "", " ", "two  spaces\n\tand Zoë — ☃, 東京", "naïve",
    "markup <unk> <s> </s> stays text",
    'She said, "I\'m 23."', "aaaaaaaaaa nnnnnn eeee   ",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(data_folder):
    return data_folder / "models" / "stories260K"


@pytest.fixture(scope="module")
def pair(folder):
    return stories260k(folder)


def test_greedy_decoding_tells_the_documented_story(pair):
    model, tokenizer = pair
    begin = torch.tensor([[tokenizer.bos_token_id]])
    told = model.generate(begin, max_new_tokens=255, do_sample=False)
    assert tokenizer.decode(told[0], skip_special_tokens=True) == STORY


def test_tokens_are_those_of_llama2c(pair, folder, data_folder):
    content = (folder / "tok512.bin").read_bytes()
    tofu = data_folder / "datasets" / "text" / "tofu" / "retain_sample.jsonl"
    lines = tofu.read_text(encoding="utf-8").splitlines()[::15]
    for text in TEXTS + [json.loads(line)["answer"] for line in lines]:
        ids = pair[1](text)["input_ids"]
        assert ids == sentence_pieces.encode(content, text), f"merged otherwise: {text!r}"
        assert pair[1].decode(ids, skip_special_tokens=True) == text


WIDTH, HIDDEN, LAYERS, HEADS, KEYS, TOKENS, POSITIONS = HEADER = (8, 12, 2, 2, 1, 11, 6)


def shapes():
    head = WIDTH // HEADS
    return {
        "embedding": (TOKENS, WIDTH), "rms_att": (LAYERS, WIDTH), "wq": (LAYERS, WIDTH, WIDTH),
        "wk": (LAYERS, KEYS * head, WIDTH), "wv": (LAYERS, KEYS * head, WIDTH),
        "wo": (LAYERS, WIDTH, WIDTH), "rms_ffn": (LAYERS, WIDTH), "w1": (LAYERS, HIDDEN, WIDTH),
        "w2": (LAYERS, WIDTH, HIDDEN), "w3": (LAYERS, HIDDEN, WIDTH), "rms_final": (WIDTH,),
        "rotations": (POSITIONS * head,),
    }  # fmt: skip


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype("<f4") for name, shape in shapes().items()}


def written(path, arrays, header=HEADER):
    path.write_bytes(struct.pack("<7i", *header) + b"".join(a.tobytes() for a in arrays.values()))
    return path


def logits(w, ids):
    """The forward pass of run.c: rotations turn neighbours."""
    norm = lambda x, g: g * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)  # noqa: E731
    head = WIDTH // HEADS

    def rotated(x):  # (n_positions, rows)
        x = x.copy()
        for t in range(len(x)):
            for i in range(0, x.shape[1], 2):
                angle = t / 10000 ** ((i % head) / head)
                turn = np.exp(1j * angle) * complex(x[t, i], x[t, i + 1])
                x[t, i], x[t, i + 1] = turn.real, turn.imag
        return x

    x = w["embedding"][ids]
    for k in range(LAYERS):
        a = norm(x, w["rms_att"][k])
        q, key, v = rotated(a @ w["wq"][k].T), rotated(a @ w["wk"][k].T), a @ w["wv"][k].T
        out = np.zeros_like(x)
        for h in range(HEADS):
            mine, shared = slice(h * head, (h + 1) * head), h // (HEADS // KEYS)
            theirs = slice(shared * head, (shared + 1) * head)
            for t in range(len(ids)):
                weights = np.exp(key[: t + 1, theirs] @ q[t, mine] / np.sqrt(head))
                out[t, mine] = weights @ v[: t + 1, theirs] / weights.sum()
        x = x + out @ w["wo"][k].T
        a = norm(x, w["rms_ffn"][k])
        gate = a @ w["w1"][k].T
        x = x + (gate / (1 + np.exp(-gate)) * (a @ w["w3"][k].T)) @ w["w2"][k].T
    return norm(x, w["rms_final"]) @ w["embedding"].T


def test_a_small_model_computes_what_run_c_computes(drawn, tmp_path):
    model = llama(written(tmp_path / "model.bin", drawn))
    ids = [1, 7, 3, 10, 3, 0]
    with torch.no_grad():
        ours = model(torch.tensor([ids])).logits[0].numpy()
    exact = logits({name: a.astype(np.float64) for name, a in drawn.items()}, ids)
    np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4)


def test_other_files_are_refused(drawn, tmp_path):
    path = tmp_path / "model.bin"
    with pytest.raises(ModelFileError, match="tied"):
        llama(written(path, drawn, header=(*HEADER[:5], -TOKENS, POSITIONS)))
    with pytest.raises(ModelFileError, match="truncated"):
        llama(written(path, drawn | {"rotations": drawn["rotations"][:-1]}))
    with pytest.raises(ModelFileError, match="truncated"):
        llama(written(path, dict(list(drawn.items())[:4])))
