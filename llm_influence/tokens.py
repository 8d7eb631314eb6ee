"""`TokenExamples`: examples of tokens, held end to end and padded only when batched."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from influence.errors import InputError
from influence.run import blocks, fingerprint
from llm_influence.columns import Numbers, Ragged, numbers

IGNORED = -100  # the label of a token that is no target, as in torch's cross entropy
HASHED = 4096  # examples hashed at a time; hashes depend on it
Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenExamples:
    """Examples of tokens; slices and subsets share the memory of the whole.

    Labels per token are targets of a causal language model: the label at position t is predicted
    from the tokens before t, so that the first is never one; -100 marks what is no target. Labels
    per example are those of a classifier or a regression.

    Args:
        per_token: One number for each token by key, `input_ids` among them: the tokens of all
            examples end to end, shape (n_tokens,). Labels per token are one of these.
        per_example: One number for each example by key, shape (n_examples,).
        starts: Where each example begins in `per_token`, shape (n_examples,).
        lengths: How many tokens it has, shape (n_examples,).
        index: The caller's labels of the examples.
        pad: The number that fills up each key, 0 where not named (`labels`: -100).
        facts: What a reader of a result should know of these examples.
        encoder: From raw records to examples encoded in the same way, if known.
    """

    per_token: Mapping[str, Numbers]
    per_example: Mapping[str, Numbers]
    starts: Positions
    lengths: Positions
    index: pd.Index
    pad: Mapping[str, int]
    facts: Mapping[str, str | float]
    encoder: Callable[[Any], "TokenExamples"] | None = None

    @classmethod
    def of_columns(
        cls,
        columns: Mapping[str, Any],
        index: pd.Index | None = None,
        pad: Mapping[str, int] | int = 0,
        facts: Mapping[str, str | float] | None = None,
        encoder: Callable[[Any], "TokenExamples"] | None = None,
    ) -> Self:
        """Examples from columns: `input_ids` and, if wanted, `labels` (or `label`) and others.

        Without labels they are the tokens themselves. An `attention_mask` is used to take off the
        padding at both ends. Columns without numbers (texts) are left aside.

        Args:
            columns: For each key one list of numbers, or one number, for each example.
            index: Labels of the examples; their positions if None.
            pad: The number that fills up `input_ids`, or one for each key. It never changes the
                loss of a causal model; a classifier that looks for the last token by the pad id
                needs its own (`model.config.pad_token_id`).
            facts: What a reader of a result should know of these examples.
            encoder: From raw records to examples encoded in the same way.

        Raises:
            InputError: Columns of other lengths, no whole numbers where these are needed, padding
                inside an example, or examples without tokens or targets.
        """
        found = _parsed(columns)
        ids = _token_ids(found)
        index = pd.RangeIndex(len(ids.lengths)) if index is None else index
        per_token, per_example = {}, {}
        for name, column in found.items():
            if isinstance(column, Ragged):
                _check_lengths(name, column.lengths, ids.lengths, index)
                per_token[name] = _compact(column.values)
            elif len(column) != len(index):
                raise InputError(
                    f"Expected one {name!r} for each of the {len(index)} examples, got "
                    f"{len(column)}."
                )
            else:
                per_example[name] = _compact(column)
        starts, lengths = _trimmed(per_token.pop("attention_mask", None), ids.lengths, index)
        if "labels" not in per_example:
            per_token.setdefault("labels", per_token["input_ids"])
        pads = {"input_ids": pad} if isinstance(pad, int) else dict(pad)
        made = cls(
            per_token, per_example, starts, lengths, index, {"labels": IGNORED, **pads},
            facts or {}, encoder,
        )  # fmt: skip
        made._check_targets()
        return made

    @property
    def n_queries(self) -> int:
        """Number of examples."""
        return len(self.starts)

    def __getitem__(self, block: slice) -> Self:
        return self._picked(block)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The examples at these positions, in this order."""
        return self._picked(np.asarray(rows, dtype=np.int64))

    def batch(self, rows: ArrayLike) -> dict[str, torch.Tensor]:
        """The examples at these positions, padded on the right to the longest of them.

        Returns:
            Tensors on the CPU: `input_ids`, `attention_mask` (0 on padding) and every other key,
            shape (n_rows, longest), or (n_rows,) for numbers per example.
        """
        at = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[at]
        place = np.arange(lengths.max(initial=0))
        inside = place < lengths[:, None]  # (n_rows, longest)
        source = np.where(inside, self.starts[at][:, None] + place, 0)
        tensors = {"attention_mask": torch.from_numpy(inside.astype(np.int64))}
        for name, values in self.per_token.items():
            tensors[name] = _tensor(np.where(inside, values[source], self.pad.get(name, 0)))
        for name, values in self.per_example.items():
            tensors[name] = _tensor(values[at])
        return tensors

    def token_ids(self) -> list[list[int]]:
        """The tokens of each example, without padding."""
        ids, ends = self.per_token["input_ids"], self.starts + self.lengths
        return [ids[a:b].tolist() for a, b in zip(self.starts, ends, strict=True)]

    def first_outside(self, name: str, n: int) -> tuple[int, float] | None:
        """The first example with a number of a key that is no whole one of 0 to n - 1, and that.

        Labels per token may be -100, too.
        """
        for block in blocks(self.n_queries, HASHED):
            chosen = self[block]
            if name in self.per_token:
                values = self.per_token[name][_positions(chosen.starts, chosen.lengths)]
                wrong = ~_is_whole(values, n) & ((values != IGNORED) | (name != "labels"))
                owner = np.repeat(np.arange(chosen.n_queries), chosen.lengths)
            elif name in self.per_example:
                values, owner = chosen.per_example[name], np.arange(chosen.n_queries)
                wrong = ~_is_whole(values, n)
            else:
                return None
            if wrong.any():
                at = int(wrong.argmax())
                return block.start + int(owner[at]), float(values[at])
        return None

    def content(self, rows: slice) -> str:
        """Hash of keys and numbers of these examples, wherever they came from."""
        chosen = self[rows]
        parts = (chosen[block]._hash() for block in blocks(chosen.n_queries, HASHED))
        return fingerprint(*parts)

    def _hash(self) -> str:
        source = _positions(self.starts, self.lengths)
        parts: list[Numbers | str] = [self.lengths]
        for name, values in sorted(self.per_token.items()):
            parts += [name, _tensor(values[source]).numpy()]
        for name, values in sorted(self.per_example.items()):
            parts += [name, _tensor(values).numpy()]
        return fingerprint(*parts)

    def _picked(self, rows: slice | Positions) -> Self:
        return replace(
            self,
            per_example={name: values[rows] for name, values in self.per_example.items()},
            starts=self.starts[rows],
            lengths=self.lengths[rows],
            index=self.index[rows],
        )

    def _check_targets(self) -> None:
        empty = np.flatnonzero(self.lengths == 0)
        if empty.size:
            raise InputError(
                f"Expected at least one token in every example; {named(empty, self.index)} "
                "none. Drop them."
            )
        labels = self.per_token.get("labels")
        if labels is None:
            return
        if labels.dtype.kind not in "iu" or ((labels < 0) & (labels != IGNORED)).any():
            raise InputError(
                "Expected labels per token to be token ids, or -100 where a token is no target; "
                f"got {labels.dtype} from {labels.min()} on."
            )
        targets = _counts(labels != IGNORED, self.starts + 1, self.lengths - 1)
        bad = np.flatnonzero(targets == 0)
        if bad.size:
            raise InputError(
                "Expected something to predict in every example: a label other than -100 after "
                f"its first token; {named(bad, self.index)} none. Drop them, or give them longer "
                "answers."
            )


def named(rows: Positions, index: pd.Index) -> str:
    """How many examples these are, the first of them, and "has" or "have"."""

    def one(i: int) -> str:
        return f"{i}" if index[i] == i else f"{i} (labelled {index[i]!r})"

    listed = ", ".join(one(int(i)) for i in rows[:3]) + (", ..." if len(rows) > 3 else "")
    if len(rows) == 1:
        return f"1 example (at position {listed}) has"
    return f"{len(rows)} examples (at positions {listed}) have"


def _parsed(columns: Mapping[str, Any]) -> dict[str, Ragged | Numbers]:
    if "label" in columns and "labels" in columns:
        raise InputError("Expected labels under one name, got both 'label' and 'labels'; drop one.")
    found = {}
    for name, column in columns.items():
        parsed = numbers(name, column)
        key = "labels" if name == "label" else name
        if parsed is not None:
            found[key] = parsed
        elif key in ("input_ids", "labels", "attention_mask"):
            raise InputError(f"Expected numbers in {name!r}, got something else; encode it first.")
    return found


def _token_ids(found: Mapping[str, Ragged | Numbers]) -> Ragged:
    ids = found.get("input_ids")
    if not isinstance(ids, Ragged):
        raise InputError(
            "Expected input_ids to be a list of token ids for each example, got "
            f"{'one number' if 'input_ids' in found else 'none'}; a single example goes into a "
            "list: [example]."
        )
    if not len(ids.lengths):
        raise InputError("Expected at least one example, got none.")
    if ids.values.dtype.kind not in "iu" or (ids.values.size and ids.values.min() < 0):
        least = ids.values.min() if ids.values.size else "none"
        raise InputError(
            f"Expected input_ids to be whole numbers from 0 on, got {ids.values.dtype} from "
            f"{least} on; take them from the tokenizer as they are."
        )
    return ids


def _check_lengths(name: str, got: Positions, expected: Positions, index: pd.Index) -> None:
    if len(got) != len(expected):
        raise InputError(
            f"Expected one list of {name!r} for each of the {len(expected)} examples, got "
            f"{len(got)}."
        )
    wrong = np.flatnonzero(got != expected)
    if wrong.size:
        i = int(wrong[0])
        raise InputError(
            f"Expected as many {name!r} as input_ids; {named(wrong, index)} another number: "
            f"{got[i]} for {expected[i]} tokens at position {i}. Correct them, or remove the "
            "column if the loss does not use it."
        )


def _compact(values: Numbers) -> Numbers:
    """Numbers as int32 where they fit, else int64; fractions as float32."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    small = values.size == 0 or max(-int(values.min()), int(values.max())) < 2**31
    return values.astype(np.int32 if small else np.int64)


def _tensor(values: Numbers) -> torch.Tensor:
    wanted = np.float32 if values.dtype.kind == "f" else np.int64
    return torch.from_numpy(np.ascontiguousarray(values, dtype=wanted))


def _is_whole(values: Numbers, n: int) -> NDArray[np.bool_]:
    return (values >= 0) & (values < n) & (values == np.floor(values))


def _counts(flags: NDArray[np.bool_], starts: Positions, lengths: Positions) -> Positions:
    """How many of each example's tokens are flagged."""
    before = np.concatenate(([0], np.cumsum(flags)))
    return before[starts + lengths] - before[starts]


def _positions(starts: Positions, lengths: Positions) -> Positions:
    """Where the tokens of these examples are held, one example after another."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if ends.size else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)


def _trimmed(
    mask: Numbers | None, lengths: Positions, index: pd.Index
) -> tuple[Positions, Positions]:
    """Starts and lengths of the examples without the padding at both ends."""
    starts = np.cumsum(lengths) - lengths
    if mask is None:
        return starts, lengths
    if not np.isin(mask, (0, 1)).all():
        raise InputError("Expected attention_mask to be 1 for tokens and 0 for padding.")
    kept = np.flatnonzero(mask)
    counts = _counts(mask != 0, starts, lengths)
    some = counts > 0
    ends = np.cumsum(counts)[some]  # in `kept`
    first = np.zeros_like(starts)
    first[some] = kept[ends - counts[some]]
    last = kept[ends - 1]
    holes = np.flatnonzero(some)[last - first[some] + 1 != counts[some]]
    if holes.size:
        raise InputError(
            "Expected zeros in attention_mask only before and after an example's tokens; "
            f"{named(holes, index)} some in between. Take these tokens out, or give them mask 1."
        )
    return first, counts
