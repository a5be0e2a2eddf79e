"""A SQLite catalog knows what its tables hold and how far it has come: a changed value, a lost log, an old copy are
told, and what a crash leaves is not."""

import os
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import suppress
from itertools import count, repeat

import pytest
from running import python

from gradsift import __main__, cli, sql
from gradsift.datastore import head, seals
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.identity import digest_text
from gradsift.datastore.sqlite import SqliteEngine

LEASE = "INSERT INTO lease VALUES (?, 'me', ?)"
SPACE = "INSERT INTO feature_space (space_id, fingerprint, spec, created) VALUES (?, ?, '{}', 0)"


@pytest.fixture
def engine(tmp_path):
    engine = SqliteEngine(tmp_path / "catalog.sqlite")
    yield engine
    engine.close()


def put(engine, *names):
    with engine.write() as db:
        db.executemany(LEASE, [(name, 0.1) for name in names])


def change(engine, statement, *, writable=False):
    """Change the file as another program, or a fault, does."""
    engine.close()
    db = sqlite3.connect(engine.path)
    with db:
        db.execute(f"PRAGMA writable_schema={'ON' if writable else 'OFF'}")
        assert db.execute(statement).rowcount
    db.close()


def told(engine):
    with pytest.raises(CorruptionError) as error:
        engine.check()
    return str(error.value)


def test_all_that_a_transaction_does_is_in_the_seals(engine):
    """Values of each type, rows that are taken along, what triggers write, and what a migration had written."""
    with engine.write() as db:
        db.executemany(LEASE, [(name, number) for name, number in (("a", 1), ("é😀", 1e300), ("", -0.0), ("b", 2**60))])
        db.execute("INSERT INTO run (name, recipe, started, numbered) VALUES ('r', '{}', 1, 9007199254740993)")
        db.execute("INSERT INTO selection (name, target, method, digest, spec, created) VALUES ('', '', '', '', '', 0)")
        db.execute("INSERT INTO exported SELECT selection_id, ? FROM selection", (bytes(range(256)),))
        db.execute(SPACE, (7, "f"))
        db.execute(
            "INSERT INTO search_index (index_id, space_id, kind, name, rows, bytes, sha256, settings, measured, created) "
            "VALUES (7, 7, 'flat', 'indexes/x', 1, 1, ?, '{}', '{}', 0)",
            ("0" * 64,),
        )
        db.execute("INSERT INTO search_index_shard VALUES (7, 0, 'd', 1)")
    engine.check()
    with engine.write() as db:
        db.execute("UPDATE lease SET holder = holder || name, expires = expires + 0.1")
        db.execute("INSERT INTO lease VALUES ('a', 'other', 3) ON CONFLICT (name) DO UPDATE SET holder='you'")
        db.execute("DELETE FROM feature_space")  # its index goes, and its index's shard; a trigger dooms the file
    with engine.write() as db:
        db.execute("DELETE FROM lease")
    engine.check()
    assert [row["name"] for row in engine.rows("SELECT name FROM doomed")] == ["indexes/x"]


def test_what_was_rolled_back_and_what_failed_are_in_no_seal(engine):
    put(engine, "a")
    with suppress(RuntimeError), engine.write() as db:
        db.execute(LEASE, ("b", 0))
        raise RuntimeError("half way")
    with pytest.raises(RuntimeError, match="passed over"), engine.write() as db, suppress(sqlite3.Error):
        db.execute("INSERT INTO lease SELECT name || 'x', holder, 0 FROM lease UNION ALL SELECT 'a', '', 0")
    put(engine, "c")
    engine.check()
    assert [row["name"] for row in engine.rows("SELECT name FROM lease ORDER BY name")] == ["a", "c"]


def test_threads_and_other_processes_keep_one_sum(engine):
    def work(start):
        for number in range(10):
            put(engine, f"{start}{number}")
        engine.close()

    threads = [threading.Thread(target=work, args=(start,)) for start in "ab"]
    for thread in threads:
        thread.start()
    code = "import sys; from pathlib import Path; from gradsift.datastore.sqlite import SqliteEngine\n"
    code += f"with SqliteEngine(Path(sys.argv[1])).write() as db: db.execute({LEASE!r}, ('other', 1))"
    python("-c", code, engine.path)
    for thread in threads:
        thread.join()
    engine.check()
    assert engine.one("SELECT rows FROM seal WHERE name='lease'")["rows"] == 21
    assert (
        head.noted(engine.path.with_suffix(".head")).commits <= engine.one("SELECT commits FROM head")["commits"] == 21
    )


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE lease SET expires=0.2 WHERE name='a'", "table lease has 2 rows, and they are not what was recorded"),
        ("DELETE FROM lease WHERE name='a'", "table lease has 1 rows, and 2 were recorded"),
        ("INSERT INTO run (name, recipe, started) VALUES ('r', '', 0)", "table run has 1 rows, and 0 were recorded"),
        ("UPDATE seal SET digest = replace(digest, substr(digest, 1, 1), 'x') WHERE name='lease'", "table lease"),
        ("DELETE FROM seal WHERE name='lease'", "table lease has 2 rows, and 0 were recorded"),
        ("INSERT INTO unit VALUES (1, 7, 1, NULL)", "1 rows of unit refer to none of feature_space"),
        ("UPDATE lease SET holder=CAST(x'ff' AS TEXT)", "Could not decode"),
    ],
)
def test_a_changed_value_is_told_and_can_be_accepted(engine, statement, says):
    put(engine, "a", "b")
    change(engine, statement)
    assert says in told(engine)
    if "unit" in statement or "CAST" in statement:
        return  # the reference leads nowhere still; what is no text is not taken for one
    engine.accept()
    engine.check()
    put(engine, "c")
    engine.check()


def test_a_changed_schema_is_told(engine):
    change(
        engine,
        "UPDATE sqlite_schema SET sql = replace(sql, 'm.since <=', 'm.since < ') WHERE name='dataset_member'",
        writable=True,
    )
    assert "the schema has" in told(engine)


def test_a_lost_log_is_told_and_nothing_is_written_until_it_is_accepted(engine, tmp_path):
    put(engine, "a")
    engine.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    put(engine, "b")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("catalog.sqlite", "catalog.head"):  # all but the log
        shutil.copy(engine.path.with_name(name), copy / name)
    lost = SqliteEngine(copy / "catalog.sqlite")
    assert [row["name"] for row in lost.rows("SELECT name FROM lease")] == ["a"]
    assert "its last 1 changes are gone" in told(lost)
    with pytest.raises(CorruptionError, match="--accept-loss"):
        put(lost, "c")
    lost.accept()
    put(lost, "c")
    lost.check()
    lost.close()


def test_an_old_copy_put_back_is_told_and_one_of_the_whole_folder_is_none(engine, tmp_path):
    put(engine, "a")
    engine.close()
    shutil.copytree(engine.path.parent, tmp_path / "whole")
    put(engine, "b")
    engine.close()
    shutil.copy(tmp_path / "whole" / "catalog.sqlite", engine.path)
    assert "an older copy was put back" in told(SqliteEngine(engine.path))
    whole = SqliteEngine(tmp_path / "whole" / "catalog.sqlite")
    whole.check()
    put(whole, "c")
    whole.check()


def test_another_catalog_in_its_place_is_told(engine, tmp_path):
    put(engine, "a")
    engine.close()
    (tmp_path / "other").mkdir()
    other = SqliteEngine(tmp_path / "other" / "catalog.sqlite")
    put(other, *"abc")
    other.close()
    shutil.copy(other.path, engine.path)
    assert "another catalog" in told(SqliteEngine(engine.path))


def test_a_catalog_that_is_gone_is_not_made_anew(engine):
    put(engine, "a")
    engine.close()
    engine.path.unlink()
    with pytest.raises(CorruptionError, match=r"is gone: catalog\.head .*Put a copy back"):
        SqliteEngine(engine.path)


@pytest.mark.parametrize("content", [b"", b"\0" * 71, b"no note at all\n", None])
def test_a_note_that_is_late_or_lost_is_no_fault(engine, content):
    """Killed after the commit, or out of power before the note was on the disk."""
    put(engine, "a")
    note = engine.path.with_suffix(".head")
    late = note.read_bytes()
    put(engine, "b")
    note.write_bytes(late if content is None else content)
    engine.check()
    put(engine, "c")
    assert head.noted(note).commits == 3
    if content is None:
        note.unlink()
        note.symlink_to(engine.path.with_name("elsewhere"))
        put(engine, "d")
        assert not engine.path.with_name("elsewhere").exists()
        engine.check()


def test_a_note_with_a_changed_bit_is_none(tmp_path):
    note = tmp_path / "x.head"
    head.note(note, head.Head("a" * 32, 7))
    whole = note.read_bytes()
    assert head.noted(note) == head.Head("a" * 32, 7)
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        note.write_bytes(flipped)
        assert head.noted(note) is None


def test_promise_10_a_catalog_from_before_seals_gets_them_for_what_it_has(tmp_path):
    path = tmp_path / "catalog.sqlite"
    db = sqlite3.connect(path)
    db.execute(SqliteEngine.migrations_table)
    for one in sql.migrations():
        if one.version < 19:
            db.executescript(one.text)
            db.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, ?, 0)", (one.version, one.name, digest_text(one.text))
            )
    db.executemany(LEASE, [("a", 1), ("b", 2)])
    db.commit()
    db.close()
    now = SqliteEngine(path)
    now.check()
    assert now.one("SELECT rows FROM seal WHERE name='lease'")["rows"] == 2
    put(now, "c")
    now.check()
    change(now, "UPDATE lease SET expires=5")
    assert "table lease" in told(now)


def test_a_row_read_back_is_the_row_that_was_sealed(engine):
    """Sums over what triggers see and over what a query gives, of values that SQLite stores in another form."""
    odd = [0.0, -0.0, 1.0, 0.1, 1e308, 5e-324, float(2**53), float("inf"), -float("inf")]
    with engine.write() as db:
        db.executemany(LEASE, [(str(number), number) for number in odd])
    engine.check()


def test_promise_10_a_migration_does_not_seal_what_was_changed_before_it(engine, monkeypatch):
    put(engine, "a")
    change(engine, "UPDATE lease SET expires=0.2")
    later = sql.Migration(9999, "9999_later.sql", "CREATE TABLE later (n INTEGER) STRICT;")
    known = sql.migrations("sqlite")
    monkeypatch.setattr(sql, "migrations", lambda _dialect: [*known, later])
    with pytest.raises(CorruptionError, match=r"table lease has 1 rows.*with the gradsift that wrote it"):
        SqliteEngine(engine.path)
    assert engine.one("SELECT 1 FROM sqlite_schema WHERE name='later'") is None
    assert "table lease" in told(engine)
    engine.accept()
    engine.close()
    migrated = SqliteEngine(engine.path)
    migrated.check()
    assert migrated.rows("SELECT * FROM later") == []


def test_a_digest_is_the_same_for_every_python():
    """Pythons differ in which characters they know, and so in what `repr` escapes: U+1FA77 from 3.12 on."""
    row = ("I \U0001fa77 this, é \u0378 \ud800 '\"\\\n\0\x7f", None, -(2**63), 0.1, 1e300, -0.0, b"\0'\xff")
    assert f"{seals._digest(row):032x}" == "0fd7944bc88a2484e251d00e5d3b149f"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_transaction_that_writes_rows(engine, monkeypatch, capsys, number, code):
    """SQLite gives what Python raises in a trigger as an error that says nothing of it."""
    seen = dict[int, int]()
    names = map(seen.setdefault, count(), count())  # without end; no signal is looked at but in the triggers

    def send():
        while len(seen) < 100:
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    def command(**_):
        sender = threading.Thread(target=send, daemon=True)
        with engine.write() as db:
            sender.start()
            db.executemany(LEASE, zip(names, repeat(0.1)))

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == code
    assert "stopped; run the same command again" in capsys.readouterr().err
    assert engine.rows("SELECT * FROM lease") == []
    put(engine, "a")
    engine.check()


@pytest.mark.parametrize("error", [MemoryError("no room"), KeyboardInterrupt("inside")])
def test_what_is_raised_while_a_row_is_added_up_comes_out_as_it_is(engine, monkeypatch, error):
    def fail(_row):
        raise error

    put(engine, "a")
    with monkeypatch.context() as failing:
        failing.setattr(seals, "_digest", fail)
        with pytest.raises(type(error)) as raised:
            put(engine, "b")
    assert raised.value is error
    put(engine, "c")
    engine.check()
    assert [row["name"] for row in engine.rows("SELECT name FROM lease ORDER BY name")] == ["a", "c"]


def test_a_ledger_that_was_ended_as_it_began_begins_again(engine, monkeypatch):
    def interrupted(_connection):
        ledger(_connection)
        raise KeyboardInterrupt

    ledger = seals.Ledger
    with monkeypatch.context() as failing:
        failing.setattr(seals, "Ledger", interrupted)
        with pytest.raises(KeyboardInterrupt):
            put(engine, "a")
    put(engine, "b")
    engine.check()
    assert engine.one("SELECT rows FROM seal WHERE name='lease'")["rows"] == 1


def test_seals_that_cannot_be_counted_on_are_damage_and_no_traceback(engine):
    put(engine, "a")
    change(engine, "UPDATE head SET commits = 9223372036854775807")
    head_note = engine.path.with_name("catalog.head")
    head_note.unlink(missing_ok=True)
    with pytest.raises(CorruptionError, match=r"is damaged \(its seals: .*--accept-loss"):
        put(engine, "b")


def test_tables_that_are_not_as_they_were_made_are_damage_and_no_traceback(engine):
    put(engine, "a")
    made = "UPDATE sqlite_schema SET sql = replace(sql, 'holder', 'hoIder') WHERE name = 'lease'"
    change(engine, made, writable=True)
    for ask in (lambda: engine.rows("SELECT holder FROM lease"), lambda: engine.one("SELECT holder FROM lease")):
        with pytest.raises(CorruptionError, match=r"is damaged \(its tables are not as they were made: no such column"):
            ask()
