"""Reading a shard from an S3 server, from this host's copy, and from a local store; and writing one.

    python benchmarks/objects.py [--mib 64] [--rounds 5]

The server is moto's, a process on this machine: what is measured is our side, no network. All bytes are read, in a
process that has not checked them before.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import interleave, machine, ratio

from gradsift.datastore.local import LocalFiles
from gradsift.datastore.objects import ObjectFiles

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def read(backend, file):
    backend.ready(file)
    with backend.map(file) as reader:
        np.frombuffer(reader.read_buffer(), np.uint8).sum(dtype=np.int64)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    import s3

    os.environ.update(s3.CREDENTIALS)
    content = os.urandom(given.mib << 20)
    with s3.server() as address, tempfile.TemporaryDirectory() as folder:
        url, cache = s3.Bucket(address, "bench").url(), Path(folder) / "cache"
        local, objects = LocalFiles(Path(folder) / "local"), ObjectFiles(url, cache)

        def put(backend):
            return backend.write("features", ".bin", lambda handle: handle.write(content))

        at, there = put(local), put(objects)

        def cold():
            objects.keep(set)
            read(objects, there)

        def warm():
            fresh = ObjectFiles(url, cache)
            read(fresh, there)

        seconds = interleave(
            {
                "read local": lambda: read(local, at),
                "read copy": warm,
                "read cold": cold,
                "write local": lambda: local.delete(put(local).name),
                "write object": lambda: objects.delete(put(objects).name),
            },
            given.rounds,
        )
    table = {name: {"seconds": sorted(both["wall"])[given.rounds // 2]} for name, both in seconds.items()}
    for name, floor in (("read copy", "read local"), ("read cold", "read local"), ("write object", "write local")):
        table[name]["ratio"] = ratio(seconds, name, floor, "wall")
    print(json.dumps({"mib": given.mib, "rounds": given.rounds, "machine": machine(), "cases": table}, indent=2))


if __name__ == "__main__":
    main()
