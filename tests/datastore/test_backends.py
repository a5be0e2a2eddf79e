"""Every back-end keeps the promises of `Backend`; and the store works on any of them."""

import io
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from gradsift.datastore import examples, files, maintenance
from gradsift.datastore.backend import Backend, Listed, StoredFile
from gradsift.datastore.errors import CorruptionError
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import digest_bytes, example_id
from gradsift.datastore.local import LocalFiles
from gradsift.datastore.store import Store
from gradsift.datastore.testing import BackendTests, put


class Killed(BaseException):
    """The process dies here."""


class TestLocalFiles(BackendTests):
    @pytest.fixture
    def backend(self, tmp_path):
        return LocalFiles(tmp_path / "root")

    @pytest.fixture
    def overwrite(self, backend):
        return lambda name, content: (backend.root / name).write_bytes(content)

    @pytest.fixture
    def link_out(self, backend, tmp_path):
        def link(name):
            path = backend.root / name
            path.rename(tmp_path / "outside.bin")
            path.symlink_to(tmp_path / "outside.bin")

        return link

    @pytest.fixture
    def abandon(self, backend):
        def leave(kind):
            folder = backend.root / kind
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".tmp-0123").write_bytes(b"half")

        return leave

    def test_a_linked_folder_is_neither_listed_nor_deleted_from(self, backend, tmp_path):
        backend.root.mkdir()
        outside = LocalFiles(tmp_path / "outside")
        file = put(outside)
        (backend.root / "features").symlink_to(outside.root / "features")
        assert not list(backend.list("features"))
        backend.delete(file.name)
        outside.check(file)
        with pytest.raises(CorruptionError, match="leads out of"):
            backend.open(file)

    @pytest.mark.parametrize("step", ["written", "synced", "renamed"])
    def test_a_stopped_write_leaves_at_most_a_whole_file(self, backend, step):
        def stop(reached):
            if reached == step:
                raise Killed

        files.failpoint = stop
        with pytest.raises(Killed):
            put(backend)
        left = list(backend.list("features"))
        assert [file.finished for file in left] == ([True] if step == "renamed" else [])


def test_an_unfinished_file_is_garbage_after_the_grace(store):
    (store.root / "features").mkdir()
    path = store.root / "features" / ".tmp-0123"
    path.write_bytes(b"half")
    assert not maintenance.garbage(store)
    os.utime(path, (time.time() - 2 * maintenance.GRACE_SECONDS,) * 2)
    assert maintenance.collect(store) == [("features/.tmp-0123", 4)]
    assert not path.exists()


class MemoryFiles(Backend):
    """Files in a dict: a back-end without a file system."""

    def __init__(self):
        self.content, self.written = {}, {}

    def write(self, kind, suffix, fill):
        sink = io.BytesIO()
        with files.disk_errors(Path("memory") / kind):
            fill(sink)
        content = sink.getvalue()
        name = f"{kind}/{os.urandom(16).hex()}{suffix}"
        self.content[name], self.written[name] = content, time.time()
        return StoredFile(name, len(content), digest_bytes(content))

    def there(self, file):
        return len(self.content.get(file.name, b"")) == file.bytes

    def check(self, file):
        content = self._content(file.name)
        if StoredFile(file.name, len(content), digest_bytes(content)) != file:
            raise CorruptionError(f"{file.name} does not match its digest (changed bytes)")

    def open(self, file):
        return pa.BufferReader(self._content(file.name))

    def map(self, file):
        return pa.BufferReader(self._content(file.name))

    def delete(self, name):
        self.content.pop(name, None)

    def list(self, kind):
        for name in sorted(n for n in self.content if n.startswith(f"{kind}/")):
            yield Listed(name, len(self.content[name]), time.time() - self.written[name], True)

    def keep(self, known):
        pass

    def _content(self, name):
        if ".." in name or name.startswith("/"):
            raise CorruptionError(f"{name} leads out of the store; refusing to read it")
        if name not in self.content:
            raise CorruptionError(f"{name} is in the catalog but its file is missing")
        return self.content[name]


class TestMemoryFiles(BackendTests):
    @pytest.fixture
    def backend(self):
        return MemoryFiles()

    @pytest.fixture
    def overwrite(self, backend):
        return backend.content.__setitem__


def test_a_store_works_without_a_file_system(tmp_path):
    """Nothing that reads or looks after a store asks where its files lie."""
    backend = MemoryFiles()
    chat = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]
    name = example_id(chat)
    with Store(tmp_path, backend=backend) as store:
        examples.add(store, [Example(name, chat, "made", "file.jsonl", 1)])
        assert examples.get_messages(store, [name]) == {name: chat}
        assert not maintenance.verify(store)
        (held,) = backend.content
        backend.content[held] = backend.content[held][:-1]
    with Store(tmp_path, backend=backend) as store:
        with pytest.raises(CorruptionError, match=r"shard 1 \(examples\)"):
            examples.get_messages(store, [name])
        (damage,) = maintenance.verify(store)
        assert damage.name == held
