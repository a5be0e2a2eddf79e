"""Token counts of examples, as a trainer with the recipe's tokenizer, template and length would see them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradsift.datastore.attributes import attribute
from gradsift.datastore.chats import Messages
from gradsift.datastore.examples import Dataset
from gradsift.datastore.identity import Spec
from gradsift.pipelines.model.encode import LABEL_POLICY, encode
from gradsift.pipelines.model.truncate import stored_name
from gradsift.pipelines.model.work import Work

I64 = NDArray[np.int64]


def lengths_spec(work: Work) -> Spec:
    """Everything that decides the counts."""
    return {
        "kind": "lengths",
        "tokenizer": work.model.tokenizer_digest,
        "labels": LABEL_POLICY,
        "truncation": stored_name(work.recipe.encoding.truncation),
        "max_length": work.recipe.encoding.max_length,
    }


def lengths(work: Work, dataset: Dataset) -> Mapping[str, I64]:
    """[N] `n_tokens` and `n_label_tokens` of a dataset's members in the order of their ids; both 0 of an example
    without a label token. Counted once and kept. Cost: one render and tokenisation each (0.3 ms for 200 words)."""
    tokenizer, encoding = work.model.tokenizer, work.recipe.encoding

    def compute(chats: Sequence[Messages]) -> Mapping[str, pa.Array]:
        encoded = [encode(tokenizer, chat, encoding.max_length, encoding.truncation) for chat in chats]
        return {
            "n_tokens": pa.array([len(one.input_ids) if one.usable else 0 for one in encoded], pa.int32()),
            "n_label_tokens": pa.array([one.n_label_tokens if one.usable else 0 for one in encoded], pa.int32()),
        }

    names = np.array(dataset.example_ids, "S32")
    counts = {name: np.zeros(len(names), np.int64) for name in ("n_tokens", "n_label_tokens")}

    def report(done: int, total: int) -> None:
        work.progress(f"tokens of {dataset.name}", done, total)

    for table in attribute(work.store, lengths_spec(work), dataset.dataset_id, compute, report):
        positions = np.searchsorted(names, np.array(table["example_id"].to_pylist(), "S32"))
        for name, values in counts.items():
            values[positions] = table[name].to_numpy()
    return counts
