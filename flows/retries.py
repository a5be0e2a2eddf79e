"""Which failures may be gone at the next try, and how often that is tried: a connection that was lost, a disk or file
server that did not answer, memory that was short. A wrong recipe, damaged bytes and bugs are as wrong the next time.
"""

import errno
from collections.abc import Iterator
from typing import Any

from gradsift.datastore.errors import GradsiftError, InputError

DELAYS = (5.0, 30.0, 120.0)  # seconds before the second, third and fourth try
JITTER = 0.3  # of a delay, at random: workers that lost the same server do not come back all at once
MEMORY_TRIES = 2  # what needs too much memory mostly needs as much again

NAMES = (
    "EIO EAGAIN EBUSY EINTR ETIMEDOUT ESTALE EREMOTEIO ENOLCK EMFILE ENFILE ENETDOWN ENETUNREACH ENETRESET "
    "ECONNABORTED ECONNRESET ECONNREFUSED ENOTCONN EPIPE EHOSTDOWN EHOSTUNREACH"
)
PASSING = {getattr(errno, name) for name in NAMES.split(" ") if hasattr(errno, name)}  # not each system has all


def passes(error: BaseException) -> bool:
    """Whether the same work may succeed if it is done again."""
    return any(_is_passing_io(cause) or is_out_of_memory(cause) for cause in _causes(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short: the process's, the GPU's, or so short that the system ended a worker."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    names = {kind.__name__ for kind in type(error).__mro__}  # without importing torch for it
    return bool(names & {"OutOfMemoryError", "BrokenProcessPool"}) or "can't allocate memory" in str(error)


def _is_passing_io(error: BaseException) -> bool:
    if isinstance(error, GradsiftError):
        return error.retryable
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in PASSING


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and, where an InputError only says which file an OSError was about, that one."""
    yield error
    while isinstance(error, InputError) and error.__cause__ is not None:
        error = error.__cause__
        yield error


def worth_another_try(_task: Any, run: Any, state: Any) -> bool:
    """Prefect's question after a task has failed: `passes` of its error, and less often where memory was short."""
    error = state.data
    if not isinstance(error, BaseException) or not passes(error):
        return False
    return run.run_count < MEMORY_TRIES or not any(map(is_out_of_memory, _causes(error)))


def policy() -> dict[str, Any]:
    """Options of a Prefect task that is tried again after failures that may pass."""
    return {
        "retries": len(DELAYS),
        "retry_delay_seconds": list(DELAYS),
        "retry_jitter_factor": JITTER,
        "retry_condition_fn": worth_another_try,
    }
