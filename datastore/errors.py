"""Errors a user can meet. Each message says what is wrong, where, and what to do next.

`exit_code` is what the command line returns; the table is in docs/reference.md.
"""


class GradsiftError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1
    retryable = False  # whether the same call may succeed a little later

    def __init__(self, message: str = "", more: str = "") -> None:
        """`more` follows the message; where there is little room it is shown on demand: a list of all there is."""
        super().__init__(f"{message}{' ' if message.endswith('?') else '. '}{more}" if more else message)
        self.message, self.more = message, more


class InputError(GradsiftError):
    """A recipe, file, model or argument that cannot be used."""

    exit_code = 2


class NoStoreError(InputError):
    """There is no store at a place, and none was to be made."""


class CorruptionError(GradsiftError):
    """Stored bytes differ from the digest that the catalog holds for them."""

    exit_code = 4


class FeatureSpaceMismatch(GradsiftError):
    """Rows whose meanings differ were about to be compared."""

    exit_code = 4


class CatalogVersionError(GradsiftError):
    """The catalog was written by a newer gradsift, or its migrations were edited."""

    exit_code = 4


class BusyError(GradsiftError):
    """Another process works on the store, or changed it meanwhile; run the command again when that has ended."""

    exit_code = 5


class StoreFullError(GradsiftError):
    """The disk is full; what was committed before is intact."""

    exit_code = 6


class DiskError(GradsiftError):
    """The disk fails or may not be written to; what was committed before is intact as far as the disk has kept it."""

    exit_code = 6


class UnavailableError(GradsiftError):
    """A server that the store needs, its database or object store, does not answer or stopped to. What was committed
    before is intact: run the command again when it answers."""

    exit_code = 7
    retryable = True


class WorkerError(GradsiftError):
    """Worker processes died again and again, and what they had is not done; what was done before is kept."""

    exit_code = 8
