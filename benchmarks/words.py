"""The index of a pool's words: seconds and bytes of building it, milliseconds of a question, memory of both.

    python benchmarks/words.py --rows 100000

Texts are made: words by Zipf's law over 300,000 (exponent 1.05), 40 to 2,000 of them in a text, 190 in the middle.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from gradsift.datastore import examples
from gradsift.datastore.examples import Example
from gradsift.datastore.identity import example_id
from gradsift.datastore.store import Store
from gradsift.pipelines.query.word_index import open_index
from gradsift.pipelines.query.words import Words

BATCH = 5_000


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store") as store:
        members = {}
        for start in range(0, args.rows, BATCH):
            batch = list(made(start, min(BATCH, args.rows - start)))
            examples.add(store, batch)
            members |= {example.example_id: "" for example in batch}
        pool = examples.define_dataset(store, "pool", "pool", members)
        before, start, cpu = peak(), time.perf_counter(), time.process_time()
        index = open_index(store, pool.dataset_id)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        (file,) = (path for path in (Path(folder) / "store" / "kept").iterdir() if path.name != ".lock")
        entries = sum(len(part.words) for part in index.parts)
        print(f"{args.rows:,} texts, {len(index.vocabulary):,} words, {entries:,} entries")
        print(f"built in {seconds:.1f} s ({cpu:.1f} s of the CPU), {file.stat().st_size / 1e6:,.0f} MB")
        print(f"peak of memory {before} → {peak()} MB")
        start = time.perf_counter()
        index = open_index(store, pool.dataset_id)
        print(f"opened in {1e3 * (time.perf_counter() - start):.0f} ms")
        space = Words(store, index)
        start = time.perf_counter()
        usual = space.typical(space.of_ids(pool.example_ids[:1]), [()])
        print(f"usual: {usual} in {1e3 * (time.perf_counter() - start):.0f} ms")
        times, cpu = [], time.process_time()
        for name in pool.example_ids[: args.questions]:
            start = time.perf_counter()
            (near,) = space.near(space.of_ids([name]), 11).near
            times.append(time.perf_counter() - start)
            assert near[0].example_id == name
        each = 1e3 * (time.process_time() - cpu) / len(times)
        print(f"a question: median {1e3 * np.median(times):.0f} ms, {each:.0f} ms of the CPU; peak {peak()} MB")


def made(start, size):
    """Examples of one turn and its answer."""
    rng = np.random.default_rng(start)
    lengths = np.clip(rng.lognormal(np.log(190), 0.7, size), 40, 2_000).astype(int)
    for number, length in enumerate(lengths, start):
        words = [f"w{k}" for k in rng.zipf(1.05, 4 * length) if k < 300_000][:length]
        chat = [
            {"role": "user", "content": " ".join(words[: length // 3]) + f" {number}?"},
            {"role": "assistant", "content": ", ".join(words[length // 3 :]) + "."},
        ]
        yield Example(example_id(chat), chat, "made", "made.jsonl", number + 1)


def peak():
    """Peak of resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


if __name__ == "__main__":
    main()
