"""Reading an export's files, which anybody may have edited, or which may be no export's at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from gradsift.datastore.errors import InputError
from gradsift.datastore.shapes import first_line

ODD = (pa.ArrowException, AttributeError, LookupError, OSError, RecursionError, SystemError, TypeError, ValueError)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """While a file of an export, or all of them, is read and taken apart: what that raises becomes an InputError that
    names it."""
    try:
        yield
    except ODD as error:
        raise InputError(f"{path} cannot be read as an export's: {first_line(error)}. Export it again") from error
