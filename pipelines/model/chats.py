"""Encoded chats of examples in the store."""

from collections.abc import Iterable, Mapping, Sequence

from gradsift.datastore import examples
from gradsift.pipelines.model.encode import Encoded, encode
from gradsift.pipelines.model.work import Work

CHATS = "chats"


def usable_chats(work: Work, ids: Sequence[str]) -> tuple[list[str], list[Encoded]]:
    """Ids and encodings of the examples that have a label, in the given order."""
    tokenizer, encoding = work.model.tokenizer, work.recipe.encoding
    kept: list[tuple[str, Encoded]] = []
    for part in examples.in_parts(work.store, ids):
        messages = examples.get_messages(work.store, part)
        chats = (encode(tokenizer, messages[i], encoding.max_length, encoding.truncation) for i in part)
        kept += [(i, chat) for i, chat in zip(part, chats, strict=True) if chat.usable]
    return [i for i, _ in kept], [c for _, c in kept]


class Chats:
    """Encoded usable chats of the pool, encoded on demand and kept."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._known: dict[str, Encoded] = {}
        self._asked: set[str] = set()

    def __call__(self, ids: Iterable[str]) -> list[Encoded]:
        """Chats of the usable ones of the ids, in the given order."""
        wanted = list(ids)
        new = [i for i in dict.fromkeys(wanted) if i not in self._asked]
        if new:
            self._asked.update(new)
            self._known.update(zip(*usable_chats(self._work, new), strict=True))
        return [self._known[i] for i in wanted if i in self._known]

    def usable(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that have a label, in the given order."""
        wanted = list(ids)
        self(wanted)
        return [i for i in wanted if i in self._known]

    def masked(self, ids: Iterable[str], masks: Mapping[str, list[bool]]) -> list[Encoded]:
        """Chats of the usable ones of the ids, those with a mask of label tokens without what it prunes."""
        usable = self.usable(ids)
        return [row.masked(masks[i]) if i in masks else row for i, row in zip(usable, self(usable), strict=True)]


def chats_of(work: Work) -> Chats:
    """The encoded chats that the trainings of a work share."""
    chats: Chats = work.kept.setdefault((CHATS, work.recipe.encoding.model_dump_json()), Chats(work))
    return chats
