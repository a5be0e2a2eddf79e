"""How large a number may be that somebody gives: what a catalog, NumPy and Arrow hold."""

from gradsift.datastore.errors import InputError

LARGEST = (1 << 63) - 1


def require_number(name: str, number: int | None) -> None:
    """Raise InputError, by its name, for a number below 0 or above `LARGEST`; None is none."""
    if number is not None and not 0 <= number <= LARGEST:
        raise InputError(f"{name} must be 0 or more, and at most 2^63 - 1")
