"""stories260K, a tiny pretrained Llama, and its tokenizer, from the files of llama2.c.

    model, tokenizer = stories260k("/path/to/models/stories260K")

| file              | content, little endian                                               |
|-------------------|----------------------------------------------------------------------|
| `stories260K.bin` | 7 int32 (`Header`), then float32 arrays in the order of `_read`      |
| `tok512.bin`      | int32, then for every token float32 score, int32 length, UTF-8 bytes |

Reference: github.com/karpathy/llama2.c, `run.c` and `doc/stories260K.md`.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
N_SPECIAL = 3 + 256  # unknown, begin, end, and the bytes
SPACE = "\u2581"  # a space in the pieces of sentencepiece


class Header(NamedTuple):
    """The numbers at the beginning of a model file."""

    width: int
    hidden: int
    n_layers: int
    n_heads: int
    n_key_heads: int
    n_tokens: int
    n_positions: int


class ModelFileError(ValueError):
    """The file is no model of llama2.c that can be read here, or is truncated."""


def stories260k(folder: str | os.PathLike[str]) -> tuple[Any, Any]:
    """The model and its tokenizer.

    The model file keeps the two numbers that a rotary embedding turns together side by side;
    `transformers` keeps them half a head apart, so rows of the query and key weights move. Output
    and input embedding are one tensor.

    Args:
        folder: Folder of the two files.

    Returns:
        A `transformers.LlamaForCausalLM`, float32, in evaluation mode, and what `tokenizer` makes.

    Raises:
        ModelFileError: The model file is of another kind, or truncated.
    """
    return llama(Path(folder) / "stories260K.bin"), tokenizer(Path(folder) / "tok512.bin")


def llama(path: Path) -> Any:
    """A model of a llama2.c file whose output is tied to its embedding."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    header, arrays = _read(path.read_bytes())
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=header.n_tokens, hidden_size=header.width, rms_norm_eps=1e-5,
            intermediate_size=header.hidden, num_hidden_layers=header.n_layers,
            num_attention_heads=header.n_heads, num_key_value_heads=header.n_key_heads,
            max_position_embeddings=header.n_positions, tie_word_embeddings=True,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    return model.eval()


def tokenizer(path: Path) -> Any:
    """The tokenizer of a llama2.c vocabulary file.

    A text gets a space in front, and is cut into characters, or bytes where a character is no
    token. Then the two neighbours whose joint text is the token of highest score are joined, until
    none are. `<s>` is put in front; nothing at the end. Special tokens are never read from a text,
    and a `▁` counts as a space.

    Returns:
        A `transformers.PreTrainedTokenizerFast`.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces, scores = _pieces(path.read_bytes())
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = _merges(pieces, scores)
    made: Any = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    made.post_processor = processors.TemplateProcessing(f"{BEGIN} $A", None, [(BEGIN, 1)])
    made.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False, split_special_tokens=True,
    )  # fmt: skip


def _read(content: bytes) -> tuple[Header, dict[str, Floats]]:
    """The header, and the weights by their names in `transformers`."""
    header = Header(*struct.unpack_from("<7i", content))
    if header.n_tokens < 0:
        raise ModelFileError(
            "Expected a model whose output is tied to its embedding, got a vocabulary of "
            f"{header.n_tokens} tokens, which says it is not; such files cannot be read here."
        )
    rest = np.frombuffer(content, dtype="<f4", offset=28).copy()

    def take(*shape: int) -> Floats:
        nonlocal rest
        taken, rest = np.split(rest, [int(np.prod(shape))])
        if taken.size < np.prod(shape):
            raise ModelFileError(
                f"Expected the weights of {header}, but the file ends before; it is truncated, or "
                "no model of llama2.c."
            )
        return taken.reshape(shape)

    layers, width, hidden = header.n_layers, header.width, header.hidden
    key_width = width // header.n_heads * header.n_key_heads
    arrays = {"model.embed_tokens.weight": take(header.n_tokens, width)}
    by_layer = {
        "input_layernorm": take(layers, width),
        "self_attn.q_proj": _halved(take(layers, width, width), header.n_heads),
        "self_attn.k_proj": _halved(take(layers, key_width, width), header.n_key_heads),
        "self_attn.v_proj": take(layers, key_width, width),
        "self_attn.o_proj": take(layers, width, width),
        "post_attention_layernorm": take(layers, width),
        "mlp.gate_proj": take(layers, hidden, width),
        "mlp.down_proj": take(layers, width, hidden),
        "mlp.up_proj": take(layers, hidden, width),
    }
    for name, array in by_layer.items():
        for layer in range(layers):
            arrays[f"model.layers.{layer}.{name}.weight"] = array[layer]
    arrays["model.norm.weight"] = take(width)
    rotations = header.n_positions * width // header.n_heads
    if len(rest) != rotations:
        raise ModelFileError(
            f"Expected {rotations} numbers after the weights of {header}, got {len(rest)}; the "
            "file is of a later format, or truncated."
        )
    return header, arrays


def _halved(weights: Floats, n_heads: int) -> Floats:
    """Rows of each head in the order 0, 2, 4, ..., 1, 3, 5, ...; shape (n_layers, rows, width)."""
    n_layers, _, width = weights.shape
    pairs = weights.reshape(n_layers, n_heads, -1, 2, width)
    return np.ascontiguousarray(pairs.swapaxes(2, 3)).reshape(weights.shape)


def _pieces(content: bytes) -> tuple[list[str], list[float]]:
    """The tokens in order, with `SPACE` for a space, and their scores."""
    pieces, scores, at = [], [], 4
    while at < len(content):
        score, length = struct.unpack_from("<fi", content, at)
        text = content[at + 8 : at + 8 + length].decode()
        pieces.append(text.strip("\n").replace(" ", SPACE))
        scores.append(score)
        at += 8 + length
    return pieces, scores


def _merges(pieces: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way to join two tokens to a third, the third of highest score first."""
    merged = sorted(range(N_SPECIAL, len(pieces)), key=lambda i: -scores[i])
    known = set(pieces[N_SPECIAL:])
    return [
        (pieces[i][:cut], pieces[i][cut:])
        for i in merged
        for cut in range(1, len(pieces[i]))
        if pieces[i][:cut] in known and pieces[i][cut:] in known
    ]
