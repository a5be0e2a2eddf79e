"""Pieces of a run's work, done by whatever workers there are: threads of this process, other processes, other hosts.

A piece says what it needs (`Order`) and how it is done (`run`); the catalog decides what is done. So a piece may be
done twice, or by a worker that is killed half-way: whoever looks next sees what is left (`finish`).

A worker keeps the work that it opened, and one model for each of its threads, from piece to piece of a run. Its
connection to the catalog is closed after each.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from gradsift.datastore.errors import WorkerError
from gradsift.datastore.store import Store
from gradsift.pipelines.model.devices import own_device
from gradsift.pipelines.model.work import Done, Order, Piece, Spread, Work, open_work

T = TypeVar("T")
P = TypeVar("P", bound=Piece)
MOST_PIECES = 200  # of a stage: an orchestrator is reckoned to take 0.1 s for each
TRIES = 3  # rounds in which workers die and nothing is done, before this gives up
MODEL = "model of thread"
_LENT: dict[str, Work] = {}  # the work of runs of this process, by token: its own threads do their pieces with it
_ALONE = threading.Lock()
_opened = threading.local()  # .order and .work: what this thread of a worker opened last


def do(piece: Piece) -> None:
    """Do a piece in this process, with the run's own work where that is here, else with one opened for it."""
    with _ALONE if piece.alone else nullcontext():
        lent = _LENT.get(piece.order.token)
        own_device(thread=lent is not None)
        if lent is not None:
            piece.run(lent)
            return
        work = _open(piece.order)
        try:
            piece.run(work)
        finally:
            work.store.close()  # this thread's connection: a worker that waits for work holds none


def _open(order: Order) -> Work:
    if getattr(_opened, "order", None) != (order.token, order.model):
        _opened.order, _opened.work = None, None  # what it held is freed before more is loaded
        store = Store(order.place.on_worker(), create=False)
        _opened.work = open_work(store, order.recipe) if order.model else Work(store, order.recipe)
        _opened.order = (order.token, order.model)
    work: Work = _opened.work
    return work


def own_model(work: Work, key: Hashable, make: Callable[[], T]) -> T:
    """The one model that this thread keeps for the pieces of a work; made where it has another, or none."""
    mine = (MODEL, threading.get_ident())
    if work.kept.get(mine, (None,))[0] != key:
        work.kept.pop(mine, None)
        work.kept[mine] = (key, make())
    model: T = work.kept[mine][1]
    return model


def let_go(work: Work) -> None:
    """Keep no model any more, in any thread of this process."""
    for name in [name for name in work.kept if isinstance(name, tuple) and name[0] == MODEL]:
        work.kept.pop(name, None)


@contextmanager
def _lent(work: Work) -> Iterator[None]:
    _LENT[work.token] = work
    try:
        yield
    finally:
        del _LENT[work.token]
        let_go(work)


def finish(work: Work, left: Callable[[], Sequence[P]], done: Callable[[P], None]) -> None:
    """Have pieces done until none is left; `left` says what is, `done` is called with each as it ends.

    Raises what a piece raised, and WorkerError when workers die again and again and nothing is done meanwhile.
    """
    spread: Spread = work.spread or here(work.recipe.workers)
    tries, least = 0, 0
    lost: Sequence[str] = ()
    with _lent(work):
        while pieces := left():
            now = sum(piece.rows for piece in pieces)
            tries = tries + 1 if least and now >= least else 0
            if tries == TRIES:
                raise WorkerError(_failed(pieces, lost))
            least = now
            lost = spread(pieces, done)  # type: ignore[arg-type]  # it gives back what it was given


def _failed(pieces: Sequence[Piece], lost: Sequence[str]) -> str:
    names = ", ".join(piece.name for piece in pieces[:3]) + (" …" if len(pieces) > 3 else "")
    why = f" ({'; '.join(dict.fromkeys(lost))})" if lost else ""
    return (
        f"not done, because the workers that had them ended {TRIES} times{why}: {names}. What was done is kept. Look "
        "whether the workers have enough memory (`features.batch_tokens`, fewer `workers`), and run this again"
    )


def here(workers: int) -> Spread:
    """Pieces are done by so many threads of this process; one is the caller's own."""

    def in_order(pieces: Sequence[Piece], done: Done) -> Sequence[str]:
        for piece in pieces:
            do(piece)
            done(piece)
        return []

    def by_threads(pieces: Sequence[Piece], done: Done) -> Sequence[str]:
        with ThreadPoolExecutor(min(workers, len(pieces))) as pool:
            futures = {pool.submit(do, piece): piece for piece in pieces}
            try:
                for future in as_completed(futures):
                    future.result()
                    done(futures[future])
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # a Ctrl-C waits for the pieces at work alone
        return []

    return in_order if workers == 1 else by_threads
