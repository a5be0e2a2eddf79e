"""Flipped bits in a catalog: told by `verify`, refused by the commands, or without effect; never another answer.

The bits are spread over the tables and indices of a store that a run made: of each in turn a page by chance, and in it
a byte that is not 0, for what a page does not use is. After each, what a user may be told is asked again: all tables of
`gradsift sql`, a question, a selection that is made anew.
"""

import random
import shutil
import sqlite3
from contextlib import closing

import pytest

import gradsift
from gradsift.datastore import examples, maintenance
from gradsift.datastore.errors import GradsiftError
from gradsift.datastore.store import Store
from gradsift.datastore.tables import TABLES


@pytest.fixture
def whole(finished, tmp_path):
    """A copy of a finished store, its catalog one file without a log."""
    root = tmp_path / "whole"
    shutil.copytree(finished[1], root, ignore=shutil.ignore_patterns("kept"))
    with closing(sqlite3.connect(root / "catalog.sqlite")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA journal_mode=DELETE")
    return root


def places(path, seed):
    """(table or index, byte, bit), without end."""
    rng, content = random.Random(seed), path.read_bytes()
    with closing(sqlite3.connect(path)) as db:
        pages = {}
        for name, number in db.execute("SELECT name, pageno FROM dbstat ORDER BY name, pageno"):
            pages.setdefault(name, []).append(number - 1)
        (size,) = db.execute("PRAGMA page_size").fetchone()
    while True:
        for name, of_name in pages.items():
            start = rng.choice(of_name) * size
            used = [at for at in range(start, start + size) if content[at]]
            if used:
                yield name, rng.choice(used), rng.randrange(8)


def answers(root):
    """What is told of a store, as text: rows of all tables, the nearest of a row, and who is chosen by stored rows."""
    with Store(root, create=False) as store:
        tables = {name: sorted(map(repr, store.frame(name).collect().rows())) for name in TABLES}
        asked = examples.get_dataset(store, 1).example_ids[0]
        near = store.neighbours(asked, k=20, where="chars > 0")
        (chosen, *_) = gradsift.select("less", examples=10, store=store)
        return repr((tables, near, chosen.digest))


def asked(ask, *arguments):
    """(answer, error in its place)."""
    try:
        return ask(*arguments), None
    except GradsiftError as error:
        return None, error


def verified(root):
    with Store(root, create=False) as store:
        return maintenance.verify(store)


@pytest.mark.parametrize(("flips", "seed"), [(24, 1), pytest.param(120, 2, marks=pytest.mark.soak)])
def test_promise_3_a_flipped_bit_of_the_catalog_never_changes_an_answer_unnoticed(whole, tmp_path, tally, flips, seed):
    count = tally("flipped bits of the catalog", 3)
    work, content = tmp_path / "work", (whole / "catalog.sqlite").read_bytes()
    shutil.copytree(whole, work)
    before = answers(work)
    for (name, at, bit), _ in zip(places(whole / "catalog.sqlite", seed), range(flips), strict=False):
        flipped = bytearray(content)
        flipped[at] ^= 1 << bit
        for left in work.glob("catalog.*"):
            left.unlink()
        (work / "catalog.sqlite").write_bytes(flipped)
        shutil.copy(whole / "catalog.head", work)
        damaged, told = asked(verified, work)
        if damaged or told:
            count.reported()
            continue
        after, refused = asked(answers, work)
        if refused:
            count.reported()
        elif after == before:
            count.harmless()
        else:
            count.silent(f"byte {at}, bit {bit} ({name})")
