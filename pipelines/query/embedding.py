"""The RDS+ embedding as a space: the position-weighted mean of a chat's last hidden states, at one checkpoint.

    e(x) = Σ_t t·h_t / Σ_t t        cos(e(x), e(q))

(Ivison et al. 2025, arXiv 2503.01807), over all tokens of the chat as it was encoded, t from 1, kept as float16 beside
the gradient rows of the same pass (`features.signals.embedding`). A question needs no answer: a text alone has hidden
states. Of a stored example it is the stored row, of a pool's or of a target's, and no model is loaded.
"""

from collections.abc import Sequence

from gradsift.datastore import features
from gradsift.datastore.chats import Messages
from gradsift.datastore.errors import InputError
from gradsift.datastore.points import space_at
from gradsift.datastore.runs import last_run
from gradsift.datastore.store import Store
from gradsift.pipelines.query.gradients import At
from gradsift.pipelines.query.spaces import part_note
from gradsift.pipelines.query.stored import F32, StoredRows


def open_embedding(
    store: Store, checkpoint: At = None, *, everything: bool = False, by_model: bool = True
) -> StoredRows:
    """The embeddings of the store's last run, at a checkpoint or at the last. Raises InputError for `all` checkpoints,
    an unknown one, and where the run kept none."""
    if checkpoint == "all":
        raise InputError("embeddings are searched at one checkpoint; give its number, or none for the last")
    last = last_run(store)
    space, ordinal = space_at(last, checkpoint)
    if not (features.space_spec(store, space)["signals"] or {}).get("embedding"):
        raise InputError(
            "the store's last run kept no embeddings; set `features.signals.embedding: true` and run the recipe again"
        )

    def compute(chats: Sequence[Messages]) -> F32:
        if not by_model:
            raise InputError(
                "the embedding of a text takes the model, and none is loaded here; ask with a stored example"
            )
        from gradsift.pipelines.query.computed import embeddings_of

        return embeddings_of(store, space, chats)

    pool = None if everything else last.result.ingest.pool.used_dataset_id
    asked = tuple(row.space_id for row in last.result.rows if row.role == "target" and row.checkpoint == ordinal)
    return StoredRows(
        store, "embedding", "RDS+", space, asked, pool, ordinal, compute, "embedding", note=part_note(last)
    )
