"""What to say to a name that is not known."""

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """``did you mean `x`?`` for a name close to one that is known, else what is said otherwise."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean `{close[0]}`?" if close else otherwise
