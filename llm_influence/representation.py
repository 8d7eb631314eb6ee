"""Similarity of examples as a model, or a text embedding, represents them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from influence.errors import InputError, UnsupportedModelError
from llm_influence.coverage import moved
from llm_influence.examples import Examples
from llm_influence.other_examples import OtherExamples
from llm_influence.passes import precision, still
from llm_influence.run import CheckpointRun
from llm_influence.similarity import Metric, Similarity, check_metric
from llm_influence.tokens import TokenExamples

Floats = NDArray[np.float64]


class EmbeddingSimilarity(Similarity):
    """Cosine between embeddings of a training example and a query.

        values[i, q] = e_i . e_q / (|e_i| |e_q|)

    By default e is the mean of the model's input embeddings over an example's tokens, which takes
    no pass through the network. An example is all its tokens: prompts and answers alike.

    Sign: positive = similar. Unit: similarity (only ranks). Cost: fit embeds every training example
    once and holds the vectors where they fit into memory; a query O(n_train width).
    Refused without `embed`: models that name no input embeddings (`UnsupportedModelError`).

        encoder = SentenceTransformer("all-MiniLM-L6-v2")
        EmbeddingSimilarity(lambda texts: encoder.encode(tokenizer.batch_decode(texts)))

    Args:
        embed: From a list of examples to vectors, shape (n_examples, width). An example is the list
            of its token ids, or the item itself where the run's examples have no tokens.
    """

    metric = "cosine"

    def __init__(self, embed: Callable[[list[Any]], ArrayLike] | None = None) -> None:
        self.embed = embed

    def _vectors(self, run: CheckpointRun, examples: Examples) -> Floats:
        if self.embed is not None:
            return np.asarray(self.embed(items_of(examples)), dtype=np.float64)
        if not isinstance(examples, TokenExamples):
            raise InputError(
                "Expected examples with input_ids, whose input embeddings can be averaged, got "
                "examples of another kind; pass embed=."
            )
        table = input_embeddings(run.model)
        means = [wide(table[ids]).mean(0) for ids in examples.token_ids()]
        return torch.stack(means).cpu().double().numpy()


class RepresentationSimilarity(Similarity):
    """Similarity of a layer's hidden states for a training example and a query.

        values[i, q] = h_i . h_q / (|h_i| |h_q|)    metric="cosine"
                       h_i . h_q                    metric="dot"
                       1 / (1 + |h_i - h_q|)        metric="l2"

    with h the mean of a layer's hidden states over an example's tokens, or that of its last token,
    at the model's own weights. Padding is left out by the batch's attention_mask; where it has
    none, all positions count. Labels enter only as the tokens they are.

    Sign: positive = similar. Unit: similarity (only ranks). Cost: fit is one forward pass over the
    training examples (with the run's own loss) and holds one vector of each where they fit into
    memory; a query one forward pass and O(n_train width).
    Refused by number of layer: models that give no hidden states (`UnsupportedModelError`).

    Reference: Hanawa et al., "Evaluation of Similarity-based Explanations", ICLR 2021, section 2;
    there l2 is minus the squared distance, which ranks the same.

    Args:
        layer: Position in the hidden states of a Hugging Face model: 0 the embeddings, -1 the last,
            after its norm where the model has one there. Or the name of a module (as in
            `named_modules`), whose output is taken; of a tuple the first.
        pooling: "mean" over tokens or the "last" token; outputs without tokens stay as they are.
        metric: "cosine", "dot" or "l2".
    """

    def __init__(
        self,
        layer: int | str = -1,
        pooling: Literal["mean", "last"] = "mean",
        metric: Metric = "cosine",
    ) -> None:
        if not isinstance(layer, int | str) or isinstance(layer, bool):
            raise InputError(f"layer must be a number or the name of a module, got {layer!r}.")
        if pooling not in ("mean", "last"):
            raise InputError(f'pooling must be "mean" or "last", got {pooling!r}.')
        check_metric(metric)
        self.layer, self.pooling, self.metric = layer, pooling, metric

    def _vectors(self, run: CheckpointRun, examples: Examples) -> Floats:
        found: list[tuple[NDArray[np.int64], Floats]] = []
        with still(run.model), torch.no_grad(), hidden_states(run.model, self.layer) as states:
            for rows in run.batches(examples):
                batch = moved(examples.batch(rows), run.device)
                with precision(run.model, run.autocast):
                    run.loss(run.model, batch)
                pooled = pool(wide(states()), mask_of(batch), self.pooling)
                found.append((rows, pooled.cpu().double().numpy()))
        order = np.argsort(np.concatenate([rows for rows, _ in found]), kind="stable")
        return np.concatenate([vectors for _, vectors in found])[order]


def items_of(examples: Examples) -> list[Any]:
    """Token ids of each example, or the items of examples of another kind."""
    if isinstance(examples, TokenExamples):
        return examples.token_ids()
    if isinstance(examples, OtherExamples):
        return [examples.items[int(i)] for i in examples.rows]
    raise InputError(
        f"Expected the examples of a run, got a {type(examples).__name__}; pass them to trace."
    )


def input_embeddings(model: nn.Module) -> Tensor:
    """The model's table of input embeddings, shape (n_tokens, width)."""
    get: Any = getattr(model, "get_input_embeddings", None)
    table = None if get is None else getattr(get(), "weight", None)
    if table is None:
        raise UnsupportedModelError(
            f"Expected a Hugging Face model, which names its input embeddings, got a "
            f"{type(model).__name__}; pass embed=."
        )
    return table.detach()


@contextmanager
def hidden_states(model: nn.Module, layer: int | str) -> Iterator[Callable[[], Tensor]]:
    """Watches the passes inside; the function gives a layer's output in the last of them."""
    kept: list[Any] = []

    def ask(module: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**options, "output_hidden_states": True}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept[:] = [output]

    if isinstance(layer, str):
        hooks = [_named(model, layer).register_forward_hook(keep)]
    elif getattr(model, "config", None) is None:
        raise UnsupportedModelError(
            f"Expected a Hugging Face model, whose hidden states are numbered, got a "
            f"{type(model).__name__}; pass layer= the name of a module."
        )
    else:
        asking = model.register_forward_pre_hook(ask, with_kwargs=True)
        hooks = [asking, model.register_forward_hook(keep)]
    try:
        yield lambda: _chosen(kept, layer)
    finally:
        for hook in hooks:
            hook.remove()


def mask_of(batch: Any) -> Tensor | None:
    """1 for tokens and 0 for padding, shape (n_examples, n_tokens), where the batch tells."""
    return batch.get("attention_mask") if isinstance(batch, Mapping) else None


def pool(states: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """One vector for each example: (n_examples, n_tokens, width) to (n_examples, width)."""
    if states.dim() == 2:
        return states
    if states.dim() != 3:
        raise InputError(
            "Expected hidden states of shape (n_examples, n_tokens, width) or (n_examples, width), "
            f"got shape {tuple(states.shape)}; name another module."
        )
    if mask is None or mask.shape != states.shape[:2]:
        mask = torch.ones(states.shape[:2], device=states.device)
    if pooling == "mean":
        weight = mask.to(states)[..., None]
        return (states * weight).sum(1) / weight.sum(1)
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (places * (mask != 0)).argmax(1)
    return states[torch.arange(len(states), device=states.device), last]


def wide(tensor: Tensor) -> Tensor:
    """As float32 at least, so that sums keep their digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _chosen(kept: list[Any], layer: int | str) -> Tensor:
    if not kept:
        raise InputError(f"Expected the loss to run layer {layer!r}, but it did not; name another.")
    (output,) = kept
    if isinstance(layer, str):
        return output[0] if isinstance(output, tuple) else output
    states = getattr(output, "hidden_states", None)
    if states is None:
        raise UnsupportedModelError(
            "Expected the model to give its hidden states (output_hidden_states=True), but it does "
            "not; pass layer= the name of a module."
        )
    if not -len(states) <= layer < len(states):
        raise InputError(
            f"layer must be from {-len(states)} to {len(states) - 1} for this model, got {layer}."
        )
    return states[layer]


def _named(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules:
        listed = ", ".join([known for known in modules if known][:5])
        raise InputError(
            f"Expected the name of a module of this model (e.g. {listed}), got {name!r}."
        )
    return modules[name]
