"""Threads for work that lets go of the interpreter: digests of files, products of rows."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def count() -> int:
    """How many threads to use: OMP_NUM_THREADS where it is a number, as torch has it, else a thread for each core that
    this process may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(asked) if asked.isascii() and asked.isdigit() else _cores())


def each(work: Callable[[T], R], of: Iterable[T]) -> Iterator[R]:
    """The work's results in order, as `map`, of as many threads as `count`; without any where that is one. The first
    error is raised where its result would be. Work must not ask a catalog: a thread has a connection of its own."""
    threads = count()
    return map(work, of) if threads == 1 else _pool(os.getpid(), threads).map(work, of)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """One for a process: a fork has none of its parent's threads."""
    return ThreadPoolExecutor(threads, "gradsift")
