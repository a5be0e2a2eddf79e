"""What to delete: examples and quarantined rows by id, source, list or predicate.

A predicate is what stands after WHERE (`predicates`), over the columns of a place that an example was read from.

Cost: of ids, a look-up each. Of a predicate, one pass over the catalog's examples; with `text` in it, over all shards
of examples as well.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import accumulate
from pathlib import Path

from gradsift.datastore import examples, tombstones
from gradsift.datastore.chats import Messages, all_text
from gradsift.datastore.engine import Row, marks, parts
from gradsift.datastore.errors import InputError
from gradsift.datastore.forget import Picked
from gradsift.datastore.predicates import COLUMNS
from gradsift.datastore.store import Store
from gradsift.datastore.where import asked_of, rows_for

OF_QUARANTINED = {"source": "source", "file": "file", "line": "line", "text": "excerpt"}  # of a row that was refused
LEAST = 8  # characters of the start of an id
RUN = 24  # letters in a row that make an excerpt one of a deleted text
SHORT = 8  # letters of the shortest turn that is looked for
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai to Chinese
WORD = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")  # of scripts that are written without spaces, a letter
WORD_ALONE, BEYOND_ASCII = re.compile(f"[{UNSPACED}]"), re.compile(r"[^\x00-\x7f]")


def by_ids(store: Store, names: Sequence[str]) -> Picked:
    """Examples by id, or by its start of at least eight characters. Raises InputError for one that never was here."""
    whole = [name for name in names if len(name) == 32]
    known = examples.known_ids(store, whole)
    found, gone = set(known), set[str]()
    unknown = [name for name in names if name not in known]
    deleted = tombstones.known(store, unknown)
    for name in unknown:
        if len(name) < LEAST:
            raise InputError(
                f"{name!r} is too short for an id to delete, though a query takes it: "
                f"give at least its first {LEAST} characters"
            )
        before = [name] if name in deleted else tombstones.matching(store, name)
        gone |= set(before)
        if not before:
            found.add(examples.find_prefix(store, name))
    return _with_quarantine(store, found, [], sorted(gone))


def by_list(store: Store, path: Path) -> Picked:
    """Examples by a file with an id on each line. Raises InputError when it cannot be read, or holds none."""
    return by_ids(store, ids_in(path))


def ids_in(path: Path) -> list[str]:
    """Ids in a file, one a line; empty lines are skipped. Raises InputError when it cannot be read, or holds none."""
    try:
        names = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; it should hold an id on each line") from error
    if not any(names):
        raise InputError(f"{path} holds no id; it should hold one on each line")
    return [name for name in names if name]


def by_source(store: Store, name: str) -> Picked:
    """All that was read from a source, also where another source has it too. Raises InputError for an unknown one."""
    rows = store.catalog.rows(
        "SELECT example_id FROM example WHERE source=? UNION SELECT example_id FROM origin WHERE source=?", (name, name)
    )
    refused = store.catalog.rows("SELECT file, line FROM quarantine WHERE source=? AND excerpt <> ''", (name,))
    if not rows and not refused:
        known = store.catalog.rows("SELECT DISTINCT source FROM example ORDER BY source LIMIT 20")
        listed = ", ".join(row["source"] for row in known) or "none"
        raise InputError(f"nothing in {store.root} is of source {name!r}; there are {listed}")
    return _with_quarantine(store, {row["example_id"] for row in rows}, _places(refused))


def by_predicate(store: Store, predicate: str) -> Picked:
    """Examples, and quarantined rows, of which a predicate holds. Raises InputError, naming columns and functions, for
    one that is none, and for one about another column that no row has: it may hold of all rows."""
    with asked_of(predicate, COLUMNS, "--where") as asked:
        ids = {name for batch in rows_for(store, asked) for name in asked.of(batch)}
        asked.refuse_absent()
        places = []
        if asked.columns and asked.columns.keys() <= OF_QUARANTINED.keys():
            refused = store.catalog.rows("SELECT * FROM quarantine WHERE excerpt <> '' ORDER BY file, line")
            shown = [OF_QUARANTINED[name] for name in asked.columns]
            rows = [(str(k), *(row[name] for name in shown)) for k, row in enumerate(refused)]
            places = _places([refused[int(k)] for k in asked.of(rows)])
    return _with_quarantine(store, ids, places)


def _places(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return [(row["file"], row["line"]) for row in rows]


def _with_quarantine(
    store: Store, ids: set[str], places: Sequence[tuple[str, int]], gone: Sequence[str] = ()
) -> Picked:
    """What was picked, with the quarantined rows that stood where one of the examples did, or show some of its text."""
    ordered, found = sorted(ids), set(places)
    refused = store.catalog.rows("SELECT file, line, excerpt FROM quarantine WHERE excerpt <> ''")
    if refused and ordered:
        where = {(row["file"], row["line"]) for row in refused}
        shown = [((row["file"], row["line"]), _Letters(_unescaped(row["excerpt"]))) for row in refused]
        for part in examples.in_parts(store, ordered):
            found |= where & _origins(store, part)
            wanted: dict[int, set[str]] = {}
            for chat in examples.get_messages(store, part).values():
                _add_runs(wanted, chat)
            found |= {place for place, letters in shown if letters.have_any(wanted)}
    return Picked(ordered, sorted(found), gone)


def _origins(store: Store, ids: Sequence[str]) -> set[tuple[str, int]]:
    return {
        (row["file"], row["line"])
        for part in parts(ids)
        for row in store.catalog.rows(f"SELECT file, line FROM origin WHERE example_id IN ({marks(part)})", part)
    }


def _unescaped(excerpt: str) -> str:
    """An excerpt of broken JSON with what its escapes stand for."""
    plain = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), excerpt)
    return re.sub(r"\\[nrt]", " ", plain)


class _Letters:
    """Letters and digits of a text in lower case, and where its words begin.

    Runs of letters are compared and not words: an excerpt ends in the middle of one. A letter beyond ASCII stands here
    twice, for escapes leave room for few of them, and one that is a syllable or a word three times.
    """

    def __init__(self, text: str) -> None:
        words = [
            word * 3 if WORD_ALONE.fullmatch(word) else BEYOND_ASCII.sub(r"\g<0>\g<0>", word)
            for word in WORD.findall(unicodedata.normalize("NFKC", text).casefold())
        ]
        self.text = "".join(words)
        self._starts = [0, *accumulate(map(len, words[:-1]))]

    def runs(self, size: int) -> Iterator[str]:
        """All runs of so many that begin with a word."""
        return (self.text[k : k + size] for k in self._starts if k + size <= len(self.text))

    def have_any(self, runs: Mapping[int, Set[str]]) -> bool:
        """Whether one of these {size: runs} is in it, at the beginning of a word."""
        return any(run in known for size, known in runs.items() for run in self.runs(size))


def _add_runs(runs: dict[int, set[str]], chat: Messages) -> None:
    """Add the runs of letters of a chat's turns: of `RUN`, or all of a shorter turn."""
    for turn in chat:
        letters = _Letters(all_text(turn))
        size = min(RUN, len(letters.text))
        if size >= SHORT:
            runs.setdefault(size, set()).update(letters.runs(size))
