"""Whose rows are alike? The neighbours of pool rows by Adam's steps and by plain gradients, at a run's last checkpoint.

    python benchmarks/neighbours.py STORE [--each 25] [--checkpoint K]

The store's last run must keep `features.plain_rows`. For `--each` rows of every source: the share of the ten nearest
others that are of the same source, and the cosines of random pairs beside those of nearest neighbours.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradsift.datastore import examples, features
from gradsift.datastore.points import plain_space, space_at
from gradsift.datastore.runs import last_run
from gradsift.datastore.store import Store

NEAREST, PAIRS = 10, 20_000
F32 = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--each", type=int, default=25)
    parser.add_argument("--checkpoint", type=int)
    args = parser.parse_args()
    with Store(args.store, create=False) as store:
        train, _ = space_at(last_run(store), args.checkpoint)
        plain = plain_space(store, train)
        if plain is None or plain == train:
            parser.error("this store's last run keeps no plain rows beside those of Adam's steps")
        ids = sorted(set(features.ids_with_rows(store, train)) & set(features.ids_with_rows(store, plain)))
        steps, gradients = (features.read_all(store, space, ids).unit() for space in (train, plain))
        known = examples.sources_of(store, ids)
    sources = np.array([known[i].source for i in ids])
    print("| question × pool | same source among 10 | random pairs: median | 95 % | 99 % | nearest: median |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, asked, pool in (
        ("Adam's step × Adam's steps", steps, steps),
        ("plain gradient × Adam's steps", gradients, steps),
        ("plain gradient × plain gradients", gradients, gradients),
    ):
        figures = " | ".join(f"{value:.3f}" for value in compared(asked, pool, sources, args.each))
        print(f"| {name} | {figures} |")


def compared(asked: F32, pool: F32, sources: NDArray[np.str_], each: int) -> list[float]:
    """[same source among the nearest, median, 95 % and 99 % of random pairs, median of the nearest]."""
    rng = np.random.default_rng(0)
    drawn = np.concatenate([rng.permutation(np.flatnonzero(sources == s))[:each] for s in np.unique(sources)])
    cosines = asked[drawn] @ pool.T
    cosines[np.arange(len(drawn)), drawn] = -np.inf
    top = np.argsort(-cosines, axis=1)[:, :NEAREST]
    pairs = rng.integers(0, len(asked), (PAIRS, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    ordinary = np.einsum("ij,ij->i", asked[pairs[:, 0]], pool[pairs[:, 1]])
    same = float((sources[top] == sources[drawn][:, None]).mean())
    return [same, *np.quantile(ordinary, (0.5, 0.95, 0.99)).tolist(), float(np.median(cosines.max(axis=1)))]


if __name__ == "__main__":
    main()
