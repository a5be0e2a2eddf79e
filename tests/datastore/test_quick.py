"""Quick digests spare a sha256, not a check: damage is told in every process."""

import hashlib
import os

import pytest

from gradsift.datastore import quick
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.local import LocalFiles

CONTENT = bytes(range(256)) * 9_000  # more than one chunk


@pytest.fixture
def files(tmp_path):
    """(a back-end with notes, a file of it)."""
    made = LocalFiles(tmp_path / "root", tmp_path / "checked.txt")
    return made, made.write("features", ".arrow", lambda handle: handle.write(CONTENT))


def another(files):
    """The same place as another process sees it."""
    return LocalFiles(files.root, files.notes.path)


@pytest.fixture
def slow(monkeypatch):
    """Files of which the sha256 was taken."""
    taken, both = [], quick.both

    def counted(path):
        taken.append(path.name)
        return both(path)

    monkeypatch.setattr(quick, "both", counted)
    return taken


def test_what_was_checked_once_is_not_hashed_by_sha256_again(files, slow):
    made, file = files
    another(made).ready(file)
    assert slow == []
    made.notes.path.unlink()
    another(made).ready(file)
    another(made).ready(file)
    assert len(slow) == 1, "noted by whoever checked it first"


@pytest.mark.parametrize("place", [0, len(CONTENT) // 2, len(CONTENT) - 1])
def test_promise_3_a_flipped_bit_is_told_though_the_file_was_checked_before(files, place):
    made, file = files
    another(made).ready(file)
    path = made.root / file.name
    state = path.stat()
    damaged = bytearray(CONTENT)
    damaged[place] ^= 4
    path.write_bytes(damaged)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a failing disk does it: no time tells
    with pytest.raises(CorruptionError, match="changed bytes"):
        another(made).ready(file)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(CorruptionError, match="bytes, not"):
        another(made).ready(file)
    path.unlink()
    with pytest.raises(CorruptionError, match="missing"):
        another(made).ready(file)


def test_a_wrong_note_costs_a_sha256_and_nothing_else(files, slow):
    made, file = files
    made.notes.path.write_text(f"{file.sha256} {'0' * 32}\n{file.sha256[:40]}\nnonsense \ufffd\n", "utf-8")
    another(made).ready(file)
    assert len(slow) == 1
    another(made).ready(file)
    assert len(slow) == 1, "the last note of a file counts"


def test_a_note_of_damaged_bytes_does_not_come_about(files):
    made, file = files
    made.notes.path.unlink()
    path = made.root / file.name
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(CorruptionError):
        another(made).ready(file)
    assert another(made).notes.of(file.sha256) is None


def test_check_reads_the_sha256_whatever_was_noted(files, slow):
    made, file = files
    another(made).check(file)
    assert len(slow) == 1


def test_notes_are_written_through_no_link_and_a_folder_that_cannot_be_written_is_no_matter(files, tmp_path):
    made, file = files
    victim = tmp_path / "victim"
    victim.write_text("mine")
    made.notes.path.unlink()
    made.notes.path.symlink_to(victim)
    another(made).ready(file)
    assert victim.read_text() == "mine"
    made.notes.path = tmp_path / "none" / "checked.txt"
    another(made).ready(file)


def test_notes_of_files_that_are_gone_are_dropped_when_there_are_many(files, monkeypatch):
    made, file = files
    made.notes.note("0" * 64, "1" * 32)
    made.keep(lambda: {file.sha256})
    assert another(made).notes.of("0" * 64) == "1" * 32, "few are left alone"
    monkeypatch.setattr(quick, "MANY_BYTES", 100)
    made.keep(lambda: {file.sha256})
    assert another(made).notes.of("0" * 64) is None
    assert another(made).notes.of(file.sha256) == quick.quick_digest(made.root / file.name)


def test_both_digests_are_of_all_bytes(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    slow, quickly = quick.both(tmp_path / "file")
    assert slow == hashlib.sha256(CONTENT).hexdigest()
    assert quickly == quick.quick_digest(tmp_path / "file")
    (tmp_path / "longer").write_bytes(CONTENT + b"x")
    assert quick.quick_digest(tmp_path / "longer") != quickly
