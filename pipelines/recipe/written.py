"""YAML that somebody wrote, perhaps a stranger: a recipe, a section's settings, an option. Whatever it holds, it is
read soon or refused in words."""

import stat
from pathlib import Path
from typing import Any

import yaml

from gradsift.datastore.errors import InputError

MOST_BYTES = 4 << 20
MOST_VALUES = 100_000  # what is named once (`&a`) and used often (`*a`) counts as often as it is used
DEEPEST = 50


def read_yaml(path: Path) -> Any:
    """What a file holds, as plain data. Raises InputError, naming the file."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            what = "a folder" if stat.S_ISDIR(state.st_mode) else "no ordinary file"
            raise InputError(f"cannot read {path}: it is {what}; give a file with YAML")
        if state.st_size > MOST_BYTES:
            raise InputError(f"{path} is over {MOST_BYTES >> 20} MiB: that is no file written by hand")
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # bytes that are no UTF-8, a path that no file has
        raise InputError(f"cannot read {path}: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What a text holds, as plain data; `where` is for messages. Raises InputError."""
    try:
        data = yaml.safe_load(text)
        _require_small(data)
    except RecursionError:
        raise InputError(f"{where} is nested too deeply, over {DEEPEST} levels") from None
    except (yaml.YAMLError, ValueError) as error:  # a number or a date that is none
        raise InputError(f"{where} is not valid YAML: {error}") from error
    return data


def _require_small(data: Any) -> None:
    sizes: dict[int, int] = {}

    def size(value: Any, above: tuple[int, ...]) -> int:
        if not isinstance(value, list | dict | tuple | set):
            return 1
        if id(value) in above:
            raise ValueError("a part of it holds itself")
        if len(above) >= DEEPEST:
            raise RecursionError
        if id(value) not in sizes:
            inner = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(size(one, (*above, id(value))) for one in inner)
        return sizes[id(value)]

    if size(data, ()) > MOST_VALUES:
        raise ValueError(f"it holds over {MOST_VALUES:,} values")
