"""The suite that every back-end for files must pass. Tests only: it imports pytest, which gradsift does not need.

    class TestMine(BackendTests):
        @pytest.fixture
        def backend(self, tmp_path):
            return MyBackend(...)

Override the other fixtures where a test can change the back-end's files from outside; what cannot be provoked is
skipped.
"""

import errno
import os
import threading
from collections.abc import Callable
from typing import BinaryIO

import pytest

from gradsift.datastore.backend import Backend, StoredFile
from gradsift.datastore.errors import CorruptionError, StoreFullError
from gradsift.datastore.identity import digest_bytes

CONTENT = bytes(range(256)) * 41
OUTSIDE = ("../x", "features/../../x", "/etc/hostname", "features/../../../../../../etc/hostname")

Damage = Callable[[str], None]


def put(backend: Backend, content: bytes = CONTENT, kind: str = "features") -> StoredFile:
    """Write a file with this content."""

    def fill(handle: BinaryIO) -> None:
        handle.write(content)

    return backend.write(kind, ".bin", fill)


def finished(backend: Backend, kind: str = "features") -> list[str]:
    """Names of the finished files of a kind."""
    return [file.name for file in backend.list(kind) if file.finished]


class BackendTests:
    """What `Backend` promises, one test for each promise."""

    @pytest.fixture
    def backend(self) -> Backend:
        """An empty back-end. Must be overridden."""
        raise NotImplementedError("give the back-end to test as the fixture `backend`")

    @pytest.fixture
    def overwrite(self) -> Callable[[str, bytes], None]:
        """Puts other bytes under a name, past the back-end."""
        pytest.skip("the bytes of this back-end cannot be changed from outside")

    @pytest.fixture
    def link_out(self) -> Damage:
        """Replaces a file by a link to the same bytes outside the back-end."""
        pytest.skip("this back-end has no links")

    @pytest.fixture
    def abandon(self) -> Callable[[str], None]:
        """Leaves an unfinished file of a kind, as a writer does that is killed."""
        pytest.skip("a killed writer leaves nothing in this back-end")

    # Writing

    def test_a_written_file_is_there_with_its_size_and_digest(self, backend: Backend) -> None:
        file = put(backend)
        kind, _, rest = file.name.partition("/")
        assert kind == "features"
        assert rest.endswith(".bin")
        assert "/" not in rest
        assert file == StoredFile(file.name, len(CONTENT), digest_bytes(CONTENT))
        backend.check(file)

    def test_a_file_is_filled_in_pieces(self, backend: Backend) -> None:
        def fill(handle: BinaryIO) -> None:
            for start in range(0, len(CONTENT), 1000):
                handle.write(CONTENT[start : start + 1000])

        assert backend.write("features", ".bin", fill).sha256 == digest_bytes(CONTENT)

    def test_a_failed_fill_leaves_nothing(self, backend: Backend) -> None:
        def fill(handle: BinaryIO) -> None:
            handle.write(CONTENT)
            raise RuntimeError("half way")

        with pytest.raises(RuntimeError, match="half way"):
            backend.write("features", ".bin", fill)
        assert not list(backend.list("features"))

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_a_full_disk_is_one_clear_error_and_leaves_nothing(self, backend: Backend, number: int) -> None:
        kept = put(backend)

        def fill(handle: BinaryIO) -> None:
            handle.write(CONTENT)
            raise OSError(number, os.strerror(number))

        with pytest.raises(StoreFullError, match="no space left"):
            backend.write("features", ".bin", fill)
        assert [file.name for file in backend.list("features")] == [kept.name]
        backend.check(kept)

    def test_writers_never_collide(self, backend: Backend) -> None:
        files: list[StoredFile] = []

        def work(number: int) -> None:
            files.extend(put(backend, CONTENT + bytes([number, k])) for k in range(5))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({file.name for file in files}) == len({file.sha256 for file in files}) == 20
        assert finished(backend) == sorted(file.name for file in files)
        for file in files:
            backend.check(file)

    def test_a_file_is_not_visible_before_it_is_whole(self, backend: Backend) -> None:
        seen: list[str] = []

        def fill(handle: BinaryIO) -> None:
            handle.write(CONTENT)
            handle.flush()
            seen.extend(finished(backend))

        backend.write("features", ".bin", fill)
        assert not seen
        assert len(finished(backend)) == 1

    # Checking

    def test_a_missing_file_is_found(self, backend: Backend) -> None:
        file = put(backend)
        backend.delete(file.name)
        assert not backend.there(file)
        with pytest.raises(CorruptionError, match=file.name):
            backend.check(file)
        backend.keep(list)  # a copy on this host would do, until nothing knows its digest
        for use in (
            lambda: backend.ready(file),
            lambda: backend.open(file),
            lambda: backend.map(file),
            lambda: backend.damaged(file),
        ):
            with pytest.raises(CorruptionError, match=file.name):
                use()

    @pytest.mark.parametrize("place", [0, len(CONTENT) // 2, -1])
    def test_a_changed_bit_is_found(
        self, backend: Backend, overwrite: Callable[[str, bytes], None], place: int
    ) -> None:
        file = put(backend)
        changed = bytearray(CONTENT)
        changed[place] ^= 1
        overwrite(file.name, bytes(changed))
        with pytest.raises(CorruptionError, match=file.name):
            backend.check(file)

    @pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT[1:], CONTENT + b"\x00"])
    def test_a_cut_or_grown_file_is_found(
        self, backend: Backend, overwrite: Callable[[str, bytes], None], content: bytes
    ) -> None:
        file = put(backend)
        overwrite(file.name, content)
        with pytest.raises(CorruptionError, match=file.name):
            backend.check(file)

    def test_two_files_swapped_are_found(self, backend: Backend) -> None:
        one, other = put(backend), put(backend, CONTENT[::-1])
        with pytest.raises(CorruptionError):
            backend.check(StoredFile(one.name, other.bytes, other.sha256))

    @pytest.mark.parametrize("name", OUTSIDE)
    def test_names_that_lead_outside_are_refused(self, backend: Backend, name: str) -> None:
        put(backend)
        file = StoredFile(name, len(CONTENT), digest_bytes(CONTENT))
        assert not backend.there(file)
        for use in (
            lambda: backend.check(file),
            lambda: backend.ready(file),
            lambda: backend.open(file),
            lambda: backend.map(file),
            lambda: backend.damaged(file),
        ):
            with pytest.raises(CorruptionError, match="leads out of"):
                use()

    def test_a_link_that_leads_outside_is_refused(self, backend: Backend, link_out: Damage) -> None:
        file = put(backend)
        link_out(file.name)
        for use in (lambda: backend.check(file), lambda: backend.open(file), lambda: backend.map(file)):
            with pytest.raises(CorruptionError, match="leads out of"):
                use()

    # Reading

    def test_open_and_map_give_the_bytes(self, backend: Backend) -> None:
        file = put(backend)
        for reader in (backend.open(file), backend.map(file)):
            with reader:
                assert reader.size() == len(CONTENT)
                assert reader.read() == CONTENT
                reader.seek(300)
                assert reader.read(7) == CONTENT[300:307]
                assert reader.tell() == 307

    def test_what_was_mapped_outlives_its_reader(self, backend: Backend) -> None:
        file = put(backend)
        with backend.map(file) as reader:
            buffer = reader.read_buffer()
        assert buffer.to_pybytes() == CONTENT

    def test_an_open_file_stays_readable_when_it_is_deleted(self, backend: Backend) -> None:
        file = put(backend)
        with backend.open(file) as plain, backend.map(file) as mapped:
            backend.delete(file.name)
            assert plain.read() == mapped.read() == CONTENT

    # Deleting and listing

    def test_deleting_twice_is_deleting_once(self, backend: Backend) -> None:
        file, other = put(backend), put(backend)
        backend.delete(file.name)
        backend.delete(file.name)
        assert finished(backend) == [other.name]

    @pytest.mark.parametrize("name", [*OUTSIDE, "", "features", "features/", "..", "nothing/here"])
    def test_deleting_other_names_deletes_nothing(self, backend: Backend, name: str) -> None:
        file = put(backend)
        backend.delete(name)
        backend.check(file)
        assert finished(backend) == [file.name]

    def test_files_are_listed_by_kind_with_size_and_age(self, backend: Backend) -> None:
        files = sorted([put(backend, CONTENT * k) for k in (1, 2, 3)], key=lambda file: file.name)
        other = put(backend, kind="scores")
        listed = list(backend.list("features"))
        assert [(file.name, file.bytes) for file in listed] == [(file.name, file.bytes) for file in files]
        assert all(file.finished and -5 < file.age < 60 for file in listed)
        assert finished(backend, "scores") == [other.name]
        assert not list(backend.list("examples"))

    def test_an_unfinished_file_is_listed_as_such(self, backend: Backend, abandon: Callable[[str], None]) -> None:
        kept = put(backend)
        abandon("features")
        assert finished(backend) == [kept.name]
        (rest,) = [file for file in backend.list("features") if not file.finished]
        assert rest.age < 60
        backend.delete(rest.name)
        assert [file.name for file in backend.list("features")] == [kept.name]
