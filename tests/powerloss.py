"""What a disk may hold after a power cut: what was synced, and of the rest any part or none. See ADR 31.

A `Keeper` lives in the process that works (tests/interposed.py) and knows what is durable: the bytes that a file had when
it was last synced, the names that a folder had when it was. At chosen operations it keeps the tree as it is, and that
knowledge. `states` builds from these the trees that may be found afterwards.

The catalog is SQLite's own: it is taken as it is at that moment, since SQLite with `synchronous=FULL` syncs each commit
and the folder of its files, and reads its log by checksums.
"""

import json
import os
import shutil
from itertools import count
from pathlib import Path

CATALOG = "catalog.sqlite"  # and the names that begin so
SHARED = "*-shm"  # memory of SQLite that processes share


class Keeper:
    """Kept below `out`: `files/`, what was synced; and for each moment `NUMBER/now`, the tree, and `NUMBER/known.json`."""

    def __init__(self, root, out, moments):
        self.root, self.out, self.moments = Path(root), Path(out), moments
        self.files = self.out / "files"
        self.folders, self.content, self._numbers, self._handles = {}, {}, count(), {}
        self.files.mkdir(parents=True)
        for path in (self.root, *self.root.rglob("*")):
            self._keep(path)

    def reach(self, number, kind):
        """Operation `number` is about to be done."""
        if number not in self.moments:
            return
        here = self.out / f"{number:04d}-{kind}"
        shutil.copytree(self.root, here / "now", symlinks=True, ignore=shutil.ignore_patterns(SHARED))
        now = {
            str(path.relative_to(self.root)): _number(path) for path in self.root.rglob("*") if not path.match(SHARED)
        }
        known = {"root": _number(self.root), "now": now, "folders": self.folders, "content": self.content}
        (here / "known.json").write_text(json.dumps(known))

    def synced(self, handle):
        """An open file or folder was synced."""
        self._keep(Path(f"/proc/self/fd/{handle}").readlink())

    def _keep(self, path):
        if not path.is_dir():
            kept = self.content[_number(path)] = str(next(self._numbers))
            self._hold(path)
            shutil.copyfile(path, self.files / kept)
            return
        number = _number(path)
        if number not in self._handles:
            self._handles[number] = os.open(path, os.O_RDONLY)  # held, so that no other gets its number
        self.folders[number] = {inside.name: _number(inside) for inside in path.iterdir()}
        for inside in path.iterdir():
            self._hold(inside)

    def _hold(self, path):
        link = self.files / f"held-{_number(path)}"
        if path.is_file() and not path.is_symlink() and not link.exists():
            link.hardlink_to(path)


def _number(path):
    return str(path.lstat().st_ino)


class Moment:
    """One moment that a `Keeper` kept."""

    def __init__(self, folder):
        self.name, self.folder, self.files = folder.name, folder, folder.parent / "files"
        known = json.loads((folder / "known.json").read_text())
        self.root, self.content, self.synced = known["root"], known["content"], known["folders"]
        ids = {".": self.root} | known["now"]
        self.path_of, self.now = {}, {self.root: {}}
        for name, number in known["now"].items():
            path = folder / "now" / name
            self.path_of.setdefault(number, path)
            if path.is_dir():
                self.now.setdefault(number, {})
            self.now.setdefault(ids[str(Path(name).parent)], {})[path.name] = number
        self.folders = self.now.keys() | self.synced.keys()

    def losses(self):
        """Groups of what is not durable, each lost or kept as one: a rename takes its name away and gives another in one
        step; the bytes of a file are their own."""
        groups = []
        for folder in self.now:  # whether one that was removed is there again is up to the folder that it was in
            here, then = self.now[folder], self.synced.get(folder, {})
            for name in here.keys() | then.keys():
                if here.get(name) != then.get(name) and not name.startswith(CATALOG):
                    numbers = {here.get(name), then.get(name)} - {None}
                    near = [group for group in groups if group[1] & numbers]
                    groups = [group for group in groups if not group[1] & numbers]
                    lost = {("name", folder, name)}.union(*(group[0] for group in near))
                    groups.append((lost, numbers.union(*(group[1] for group in near))))
        bytes_of = [
            {("bytes", number)}
            for number, path in self.path_of.items()
            if path.is_file() and not path.name.startswith(CATALOG) and not self._is_synced(number, path)
        ]
        return [*(lost for lost, _ in groups), *bytes_of]

    def _is_synced(self, number, path):
        kept = self.content.get(number)
        return kept is not None and (self.files / kept).read_bytes() == path.read_bytes()

    def build(self, target, lost, zeros=False):
        """Make the tree in which `lost`, groups of `losses`, are lost. Bytes that were never synced are none then, or as
        many zeros."""
        gone = set().union(*lost) if lost else set()
        self._build(Path(target), self.root, gone, zeros)

    def _build(self, target, number, gone, zeros):
        target.mkdir()
        here, then = self.now.get(number, {}), self.synced.get(number, {})
        for name in here.keys() | then.keys():
            names = then if ("name", number, name) in gone else here
            if name.startswith(CATALOG):
                names = here
            if number not in self.now:
                names = then  # a folder that was removed, and is there again
            if name in names and not Path(name).match(SHARED):
                inode = names[name]
                if inode in self.folders:
                    self._build(target / name, inode, gone, zeros)
                else:
                    self._write(target / name, inode, gone, zeros)

    def _write(self, target, inode, gone, zeros):
        path, kept = self.path_of.get(inode), self.content.get(inode)
        if path is not None and ("bytes", inode) not in gone:
            shutil.copyfile(path, target)
        elif kept is not None:
            shutil.copyfile(self.files / kept, target)
        else:
            size = path.stat().st_size if path is not None and zeros else 0
            target.write_bytes(bytes(size))


def moments(out):
    """What was kept, in the order of the operations."""
    return [Moment(path.parent) for path in sorted(Path(out).glob("*/known.json"))]
