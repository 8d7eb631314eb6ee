"""Examples against the lists they were made of, the collators of transformers, and each other."""

import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
)

import datasets
from influence.errors import InputError
from llm_influence.examples import Examples, OtherExamples, TokenExamples, as_examples
from tests.llm_influence.small_tokenizers import bpe

ALL = slice(None)
RECORDS = [
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "token_type_ids": [0, 0, 1], "quality": 0.5},
    {"input_ids": [8, 9], "labels": [8, 9], "token_type_ids": [0, 1], "quality": 1.5},
    {"input_ids": [3, 1, 4, 1], "labels": [-100, -100, 4, 1], "token_type_ids": [1, 1, 0, 0],
     "quality": 2.5},
]  # fmt: skip


def same(batch, expected):
    """Batches of the same keys, numbers and types."""
    torch.testing.assert_close(batch, expected, rtol=0, atol=0)


@st.composite
def ragged(draw, keys=("input_ids", "labels", "extra")):
    """Records of random lengths from 2 on whose last label is a target."""
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=6))
    number = st.integers(0, 2**33)
    records = []
    for length in lengths:
        made = {key: draw(st.lists(number, min_size=length, max_size=length)) for key in keys}
        for t in draw(st.sets(st.integers(0, length - 2))):
            made["labels"][t] = -100
        records.append({**made, "group": draw(number)})
    return records


@given(ragged(), st.data())
def test_a_batch_holds_the_originals_padded_on_the_right(records, draws):
    examples = as_examples(records, pad={"input_ids": 11, "extra": 22})
    rows = draws.draw(st.lists(st.integers(0, len(records) - 1), min_size=1, max_size=8))
    batch = examples.batch(rows)
    longest = max(len(records[i]["input_ids"]) for i in rows)
    fill = {"input_ids": 11, "labels": -100, "extra": 22, "attention_mask": 0}
    assert set(batch) == {*fill, "group"}
    for key, pad in fill.items():
        assert batch[key].dtype == torch.int64
        for row, i in zip(batch[key].tolist(), rows, strict=True):
            length = len(records[i]["input_ids"])
            whole = records[i].get(key, [1] * length)
            assert row == whole + [pad] * (longest - length)
    assert batch["group"].tolist() == [records[i]["group"] for i in rows]
    assert examples.lengths.tolist() == [len(record["input_ids"]) for record in records]


@given(ragged(), st.data())
def test_subsets_are_examples_too(records, draws):
    examples = as_examples(records)
    n = len(records)
    rows = draws.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8))
    block = slice(*sorted(draws.draw(st.tuples(st.integers(0, n), st.integers(0, n)))))
    for subset, positions in (
        (examples.take(np.array(rows)), rows),
        (examples[block], list(range(n))[block]),
    ):
        assert subset.n_queries == len(positions)
        assert subset.index.tolist() == positions
        again = [records[i] for i in positions]
        if again:
            fresh = as_examples(again)
            assert subset.content(ALL) == fresh.content(ALL)
            same(subset.batch(range(len(again))), fresh.batch(range(len(again))))


class Mapped(Dataset):
    """A torch dataset of the records."""

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, i):
        return self.records[i]


def tensors(records):
    return [{key: torch.tensor(value) for key, value in record.items()} for record in records]


def arrays(records):
    return [{key: np.asarray(value) for key, value in record.items()} for record in records]


def columns(records):
    return {key: [record[key] for record in records] for key in records[0]}


def permuted(records):
    """A Hugging Face dataset whose order is a selection of another's."""
    return datasets.Dataset.from_list(records[::-1]).select(range(len(records))[::-1])


CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "numpy": arrays,
    "torch": tensors,
    "columns": columns,
    "pandas": pd.DataFrame,
    "series": pd.Series,
    "hugging face": datasets.Dataset.from_list,
    "hugging face, selected": permuted,
    "hugging face, as torch": lambda records: permuted(records).with_format("torch"),
    "hugging face, transformed": lambda records: permuted(records).with_transform(lambda x: x),
    "torch dataset": Mapped,
    "loader": lambda records: DataLoader(Mapped(records), batch_size=2, shuffle=True),
    "loader that pads": lambda records: DataLoader(
        Mapped(records), batch_size=2, collate_fn=DataCollatorWithPadding(bpe())
    ),
    "text beside": lambda records: [{**record, "text": "never read"} for record in records],
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_the_container_makes_no_difference(container):
    made = as_examples(container(RECORDS))
    assert isinstance(made, TokenExamples) and isinstance(made, Examples)
    assert made.content(ALL) == as_examples(RECORDS).content(ALL)
    same(made.batch([2, 0]), as_examples(RECORDS).batch([2, 0]))
    assert made.batch([0])["quality"].dtype == torch.float32


@pytest.mark.parametrize(
    "feature",
    [
        datasets.Sequence(datasets.Value("int64"), length=3),
        datasets.LargeList(datasets.Value("int16")),
        getattr(datasets, "List", datasets.Sequence)(datasets.Value("uint8")),  # List: since 4
    ],
    ids=["fixed", "large", "small"],
)
def test_arrow_layouts_are_read_alike(feature):
    table, features = {"input_ids": [[1, 2, 3], [4, 5, 6]]}, datasets.Features(input_ids=feature)
    whole = datasets.Dataset.from_dict(table, features=features)
    chunked = datasets.concatenate_datasets([whole, whole]).select(range(1, 3))
    expected = as_examples({"input_ids": [[4, 5, 6], [1, 2, 3]]})
    assert as_examples(chunked).content(ALL) == expected.content(ALL)


@pytest.mark.parametrize("key", ["input_ids", "labels", "token_type_ids", "quality"])
def test_content_changes_with_one_number(key):
    changed = [dict(record) for record in RECORDS]
    value = changed[1][key]
    changed[1][key] = [*value[:-1], value[-1] + 1] if isinstance(value, list) else value + 1
    before, after = as_examples(RECORDS), as_examples(changed)
    assert before.content(ALL) != after.content(ALL)
    assert before.content(slice(1)) == after.content(slice(1))
    assert before.content(slice(1, 2)) != after.content(slice(1, 2))


def test_content_tells_where_one_example_ends():
    one = as_examples([{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5]}])
    other = as_examples([{"input_ids": [1, 2]}, {"input_ids": [3, 4, 5]}])
    assert one.content(ALL) != other.content(ALL)
    assert one.content(ALL) != one.take(np.array([1, 0])).content(ALL)


def test_without_labels_the_tokens_are_the_labels():
    batch = as_examples([{"input_ids": [4, 5]}, {"input_ids": [1, 2, 3]}]).batch([0, 1])
    assert batch["labels"].tolist() == [[4, 5, -100], [1, 2, 3]]


def test_labels_of_a_classifier_are_one_for_each_example():
    records = [{"input_ids": [4], "label": 1}, {"input_ids": [1, 2, 3], "label": 0}]
    batch = as_examples(records).batch([1, 0])
    assert batch["labels"].tolist() == [0, 1] and batch["labels"].dtype == torch.int64
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize("make", [list, columns, tensors, datasets.Dataset.from_list])
def test_padding_is_taken_off_at_both_ends(make):
    padded = [
        {"input_ids": [0, 0, 5, 6], "labels": [-100, -100, 5, 6], "attention_mask": [0, 0, 1, 1]},
        {"input_ids": [7, 0, 8, 0], "labels": [7, 0, 8, -100], "attention_mask": [1, 1, 1, 0]},
    ]
    plain = [{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [7, 0, 8], "labels": [7, 0, 8]}]
    made = as_examples(make(padded))
    assert made.lengths.tolist() == [2, 3]
    assert made.content(ALL) == as_examples(plain).content(ALL)
    same(made.batch([0, 1]), as_examples(plain).batch([0, 1]))


def test_batches_are_those_of_transformers():
    tokenizer = bpe()
    records = [{key: record[key] for key in ("input_ids", "labels")} for record in RECORDS]
    expected = DataCollatorForTokenClassification(tokenizer)([dict(record) for record in records])
    batch = as_examples(records, pad=tokenizer.pad_token_id).batch([0, 1, 2])
    same(batch, {key: expected[key] for key in batch})


def test_the_language_modelling_collator_is_followed():
    collate = DataCollatorForLanguageModeling(bpe(), mlm=False)  # pads by 0
    records = [{"input_ids": [5, 0, 7]}, {"input_ids": [8, 9]}]
    expected = next(iter(DataLoader(records, batch_size=2, collate_fn=collate)))
    made = as_examples(DataLoader(records, collate_fn=collate, shuffle=True))
    assert isinstance(made, TokenExamples)
    same(made.batch([0, 1]), {key: expected[key] for key in made.batch([0])})


def test_the_index_of_a_frame_is_kept():
    frame = pd.DataFrame(RECORDS, index=["a", "b", "c"])
    made = as_examples(frame)
    assert made.index.tolist() == ["a", "b", "c"]
    assert made[1:].index.tolist() == ["b", "c"]
    assert made.take(np.array([2, 0])).index.tolist() == ["c", "a"]


def test_examples_pass_through():
    made = as_examples(RECORDS)
    assert as_examples(made) is made


def test_ten_thousand_examples_take_no_time():
    rng = np.random.default_rng(0)
    records = [{"input_ids": rng.integers(0, 99, 64).tolist()} for _ in range(10_000)]
    started = time.perf_counter()
    made = as_examples(records)
    made.batch(range(1000))
    made.content(ALL)
    assert time.perf_counter() - started < 3, "a loop over tokens?"


class Stream(IterableDataset):
    def __iter__(self):
        return iter(RECORDS)


class Coloured:
    """No type a hash can read."""


REFUSED = {
    "empty example": ([*RECORDS[:1], {**RECORDS[0], "input_ids": [], "labels": [],
                       "token_type_ids": []}], r"1 example \(at position 1\) has none"),
    "one token": ([{"input_ids": [1, 2]}, {"input_ids": [3]}], "predict.*position 1"),
    "no target": ([{"input_ids": [1, 2], "labels": [1, -100]}] * 5,
                  r"5 examples \(at positions 0, 1, 2, ...\) have none"),
    "labelled": (pd.DataFrame({"input_ids": [[1, 2], [3]]}, index=["x", "y"]),
                 "position 1 .labelled 'y'"),
    "all padding": ([{"input_ids": [1, 2], "attention_mask": [0, 0]}], "at least one token"),
    "hole": ([{"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}], "in between"),
    "mask of twos": ([{"input_ids": [1, 2, 3], "attention_mask": [1, 2, 1]}], "1 for tokens"),
    "lengths": ([{"input_ids": [1, 2, 3], "labels": [1, 2]}], "2 for 3 tokens"),
    "fractions": ([{"input_ids": [1.0, 2.5]}], "whole numbers from 0 on, got float64"),
    "negative": ([{"input_ids": [1, -2]}], "from -2 on"),
    "negative label": ([{"input_ids": [1, 2], "labels": [1, -1]}], "or -100"),
    "texts as ids": ([{"input_ids": ["a", "b"]}], "Expected numbers in 'input_ids'"),
    "one example": ({"input_ids": [1, 2, 3]}, r"goes into a list: \[example\]"),
    "two labels": ([{"input_ids": [1, 2], "labels": [1, 2], "label": 0}], "drop one"),
    "missing": ([{"input_ids": [1, 2], "label": 1}, {"input_ids": [1, 2], "label": None}],
                "'label' for every example"),
    "nested": ([{"input_ids": [1, 2], "boxes": [[1, 2], [3, 4]]}], "lists in lists"),
    "short column": ({"input_ids": [[1, 2], [3, 4]], "group": [1]}, "each of the 2 examples"),
    "other keys": ([{"input_ids": [1, 2]}, {"ids": [1, 2]}], "example 1 has"),
    "texts": (["a text"], r"llm_influence.encode\(records, tokenizer\)"),
    "prompts": (pd.DataFrame({"prompt": ["a"], "completion": ["b"]}), "llm_influence.encode"),
    "a text": ("a text", "got a str"),
    "none": ([], "at least one example"),
    "generator": ((record for record in RECORDS), "got a generator"),
    "stream": (Stream(), r"iterable dataset \(Stream\)"),
    "loader of a stream": (DataLoader(Stream()), r"iterable dataset \(Stream\)"),
    "hugging face stream": (datasets.Dataset.from_list(RECORDS).to_iterable_dataset(),
                            "iterable dataset"),
    "hugging face splits": (datasets.DatasetDict({"train": datasets.Dataset.from_list(RECORDS)}),
                            r"DatasetDict of \['train'\]"),
    "no batches": (DataLoader(RECORDS, batch_size=None), "batch_size=None"),
    "masking": (DataLoader(RECORDS, collate_fn=DataCollatorForLanguageModeling(
        bpe(mask_token="<m>"), mlm=True)), "at random"),
    "other columns": ({"x": [1, 2]}, r"column of input_ids, got \['x'\]"),
}  # fmt: skip


@pytest.mark.parametrize(("dataset", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_name(dataset, message):
    with pytest.raises(InputError, match=message):
        as_examples(dataset)


@pytest.mark.parametrize(
    "rows", [[[1, 2], None], [[1, None], [3, 4]], [[[1], [2]], [[3], [4]]]], ids=str
)
def test_arrow_columns_are_refused_as_lists_are(rows):
    table = {"input_ids": [[1, 2], [3, 4]], "extra": rows}
    for dataset in (table, datasets.Dataset.from_dict(table)):
        with pytest.raises(InputError, match="'extra'"):
            as_examples(dataset)


def test_raw_records_go_through_the_encoder_given():
    made = as_examples(["a text"], encode=lambda records: as_examples(RECORDS[: len(records)]))
    assert made.n_queries == 1


PAIRS = [(torch.tensor([1.0, 2.0]), 0), (torch.tensor([3.0, 4.0]), 1), (torch.zeros(2), 0)]


def test_other_examples_are_collated_as_torch_does():
    inputs, labels = torch.stack([x for x, _ in PAIRS]), torch.tensor([y for _, y in PAIRS])
    for dataset in (
        PAIRS,
        Mapped(PAIRS),
        TensorDataset(inputs, labels),
        DataLoader(TensorDataset(inputs, labels), batch_size=2, shuffle=True),
    ):
        made = as_examples(dataset)
        assert isinstance(made, OtherExamples) and isinstance(made, Examples)
        assert made.n_queries == 3 and made.lengths.tolist() == [1, 1, 1]
        for subset in (made[1:], made.take(np.array([1, 2]))):
            assert subset.index.tolist() == [1, 2]
            x, y = subset.batch([1, 0])
            assert torch.equal(x, inputs[[2, 1]]) and torch.equal(y, labels[[2, 1]])


def test_a_loader_keeps_its_own_collation():
    made = as_examples(DataLoader(PAIRS, collate_fn=lambda items: [y for _, y in items]))
    assert made.batch([1, 0]) == [1, 0]


def test_content_of_other_examples():
    items = [{"x": torch.ones(2, dtype=torch.bfloat16), "y": (1, None, "a"), "z": np.arange(3)}]
    again = [{"z": np.arange(3), "x": torch.ones(2, dtype=torch.bfloat16), "y": [1, None, "a"]}]
    others = [
        {**items[0], "x": torch.ones(2)},
        {**items[0], "x": torch.ones(1, 2, dtype=torch.bfloat16)},
        {**items[0], "y": (1, "a", None)},
        {**items[0], "z": np.arange(3) + 1},
        {**items[0], "y": (1.0, None, "a")},
    ]
    content = as_examples(items).content(ALL)
    assert content == as_examples(again).content(ALL)
    hashes = {as_examples([other]).content(ALL) for other in others}
    assert len(hashes | {content}) == len(others) + 1


def test_what_cannot_be_hashed_is_refused_by_name():
    made = as_examples([(Coloured(), 1)])
    with pytest.raises(InputError, match="got a Coloured"):
        made.content(ALL)
