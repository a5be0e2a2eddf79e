"""One accelerator for each worker: of the devices of a host, each worker process takes one and keeps it.

Whoever starts the workers may have given each its own (`CUDA_VISIBLE_DEVICES` names one, as Ray does and `dask-cuda`):
that stays. Else the first free one is taken: a lock on a small file of the host, which the system gives back when the
process ends, however it ends; the locks are counted over all runs on the host. With more workers than devices they
share evenly. Threads of one process take devices in turn.
"""

import fcntl
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
_taken: list[int] = []  # the open lock of this process
_claiming = threading.Lock()
_turns = itertools.count()
_thread = threading.local()


def best_device() -> "torch.device":
    """The accelerator where there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def own_device(*, thread: bool) -> None:
    """Give this worker process a device of its own, or this thread of a process whose work it does. Does nothing on a
    host with one device or none, and the second time."""
    import torch

    if thread:
        _own_of_thread(torch.cuda.device_count, torch.cuda.set_device)
        return
    with _claiming:
        if not _taken and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            name = claim(devices(torch.cuda.device_count()), Path(tempfile.gettempdir()))
            if name:
                os.environ[VISIBLE] = name  # read when CUDA is initialised, which this comes before


def _own_of_thread(count: Callable[[], int], choose: Callable[[int], None]) -> None:
    if threading.current_thread() is threading.main_thread() or getattr(_thread, "chosen", False):
        return
    _thread.chosen = True
    if (devices := count()) > 1:
        choose(next(_turns) % devices)


def devices(count: int) -> list[str]:
    """Names of the devices that this process may use."""
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] or [str(number) for number in range(count)]


def claim(names: Sequence[str], folder: Path) -> str:
    """The name of a device that the fewest other processes of this user have, which is locked until this process ends;
    '' where there is no choice."""
    if len(names) < 2:
        return ""
    for layer in itertools.count():
        for name in names:
            path = folder / f"gradsift-device-{os.getuid()}-{name.replace('/', '_')}-{layer}.lock"
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            _taken.append(handle)
            return name
    raise AssertionError  # counting does not end
