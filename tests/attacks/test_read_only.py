"""A catalog that may not be written to here, and that others write to, is read as it is, or not at all."""

import os
import pathlib
import shutil
import sqlite3
import tempfile
import traceback
from contextlib import closing

import pytest

from gradsift.datastore import head, sqlite_files
from gradsift.datastore.errors import BusyError, InputError
from gradsift.datastore.sqlite import READS, SqliteEngine

MANY = 5_000
COUNTS = ("SELECT count(*) AS n FROM lease", "SELECT count(DISTINCT name) AS n FROM lease")


def put(path, first, last):
    """What a writer does who opens the catalog, changes many pages and closes it."""
    engine = SqliteEngine(path)
    with engine.write() as db:
        db.execute("DELETE FROM lease WHERE expires % 3 = 0")
        rows = ((f"{number:06d}", "x" * 50, float(number)) for number in range(first, last))
        db.executemany("INSERT INTO lease VALUES (?, ?, ?)", rows)
    engine.close()


def counts(engine):
    return [engine.one(text)["n"] for text in COUNTS]


def truth(path):
    """What the catalog has, by who may write to it."""
    with closing(SqliteEngine(path)) as engine:  # left open, its log would stay
        return counts(engine)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "catalog.sqlite"
    put(path, 0, MANY)
    return path


@pytest.fixture
def unwritable(monkeypatch):
    """Nothing may be written, and no file beside the catalog may be made; close what is to write first."""
    monkeypatch.setattr(sqlite_files, "_shared", lambda *_: None)
    monkeypatch.setattr(sqlite_files, "PAUSE_SECONDS", 0)


def to_read(path):
    engine = SqliteEngine(path)
    engine.close()
    engine.read_only = True
    return engine


def test_who_may_only_read_sees_what_another_user_writes():
    """Between two questions, while the writer is there and after it."""
    root = pathlib.Path(tempfile.mkdtemp())  # `tmp_path` is its user's alone
    root.chmod(0o755)
    path = root / "catalog.sqlite"
    asks, answers = os.pipe(), os.pipe()
    child = None
    try:
        put(path, 0, MANY)
        if not (child := os.fork()):
            try:
                os.close(asks[1])
                if os.getuid():
                    os.access = lambda at, mode, **_: mode != os.W_OK or not str(at).startswith(str(root))
                else:
                    os.setuid(65_534)
                engine = SqliteEngine(path)
                assert engine.read_only
                while os.read(asks[0], 1) == b"?":
                    engine.check()
                    os.write(answers[1], repr(counts(engine)).encode().ljust(64))
            except BaseException:  # noqa: BLE001 - the child of a fork must not go on as pytest
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(answers[1])

        def seen():
            os.write(asks[1], b"?")
            return os.read(answers[0], 64).decode().strip()

        assert seen() == repr(truth(path))
        put(path, MANY, 4 * MANY)
        live = SqliteEngine(path)
        assert seen() == repr(counts(live))
        with live.write() as db:
            db.execute("DELETE FROM lease WHERE expires > 9000")
        assert seen() == repr(counts(live))
        live.close()
        put(path, 5 * MANY, 6 * MANY)
        assert seen() == repr(truth(path))
    finally:
        os.close(asks[1])
        if child:
            os.waitpid(child, 0)
        shutil.rmtree(root)


def test_a_file_that_was_read_as_unchanging_is_read_again_when_it_changed(path, unwritable):
    engine = to_read(path)
    before = counts(engine)
    put(path, MANY, 4 * MANY)
    assert counts(engine) != before
    assert counts(engine) == truth(path)
    engine.check()


def test_an_answer_of_which_others_changed_a_part_meanwhile_is_not_given(path, unwritable):
    engine = to_read(path)
    written = []

    def slow(connection):
        answer = [connection.execute(COUNTS[0]).fetchone()[0]]
        if len(written) < most:
            written.append(1)
            put(path, len(written) * MANY, (1 + len(written)) * MANY)
        return [*answer, connection.execute(COUNTS[1]).fetchone()[0]]

    most = 1
    assert engine._read(slow) == truth(path)
    most = 2 * READS
    with pytest.raises(BusyError, match="read only here, and others change it"):
        engine._read(slow)


def test_changes_that_wait_where_they_cannot_be_read_are_told(path, unwritable):
    engine = to_read(path)
    counts(engine)
    writer = SqliteEngine(path)
    with writer.write() as db:
        db.execute("DELETE FROM lease")
    with pytest.raises(InputError, match=r"catalog\.sqlite-wal has changes .*gradsift status"):
        counts(engine)
    writer.close()
    assert counts(engine) == [0, 0]


def test_a_catalog_that_another_makes_meanwhile_is_opened(tmp_path, monkeypatch):
    """Between the look for it and the look for what is known of one."""
    path = tmp_path / "catalog.sqlite"
    noted = head.noted

    def late(note):
        monkeypatch.setattr(head, "noted", noted)
        put(path, 0, 1)
        return noted(note)

    monkeypatch.setattr(head, "noted", late)
    assert truth(path) == [1, 1]


def test_a_copy_before_a_migration_is_whole_or_not_there(path, monkeypatch):
    """Also where two processes make it at once, and where one was killed at it."""
    engine = SqliteEngine(path)
    copy = path.with_suffix(".before-0007.sqlite")
    left = path.with_name(f"{copy.name}-killed")
    left.write_bytes(b"half")
    there = pathlib.Path.exists
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "exists", lambda at: at != copy and there(at))  # both ask before either has it
        engine.backup(7)
        engine.backup(7)
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT count(*) FROM lease").fetchone() == (counts(engine)[0],)
    assert sorted(path.parent.glob("*.before-*")) == [copy, left]
    engine.scrub()
    assert not list(path.parent.glob("*.before-*"))
