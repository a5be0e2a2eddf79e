"""How large a number may be that somebody gives: what a catalog, NumPy and Arrow hold."""

import math

from gradsift.datastore.errors import InputError

LARGEST = (1 << 63) - 1


def require_number(name: str, number: int | None) -> None:
    """Raise InputError, by its name, for a number below 0 or above `LARGEST`; None is none."""
    if number is not None and not 0 <= number <= LARGEST:
        raise InputError(f"{name} must be 0 or more, and at most 2^63 - 1")


def require_hours(name: str, hours: float) -> None:
    """Raise InputError, by its name, for a time that is not a number: every file would be older and younger than it."""
    if math.isnan(hours):
        raise InputError(f"{name} must be a number of hours, not NaN")
