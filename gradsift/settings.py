"""Reading a file with one section of a recipe."""

from pathlib import Path
from typing import Any

import yaml

from gradsift.datastore.errors import InputError


def read_section(path: Path, name: str) -> dict[str, Any]:
    """The fields of a section, alone in a YAML file or under the section's name. Raises InputError."""
    try:
        section = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(section, dict):
        raise InputError(f"{path} must hold the fields of `{name}`")
    inner = section.get(name, section)
    if not isinstance(inner, dict):
        raise InputError(f"{path}: `{name}` must be a mapping")
    return inner
