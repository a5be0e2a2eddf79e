"""The version that artefacts carry, and those of what they are made with."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

VERSION = "0.1.0"
MADE_WITH = ("torch", "transformers", "peft")


def made_with() -> Mapping[str, str]:
    """Versions of this package and of those that compute, by name, as far as they are installed; loads none."""
    found = {"gradsift": VERSION}
    for name in MADE_WITH:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
