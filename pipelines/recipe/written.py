"""YAML that somebody wrote, perhaps a stranger: a recipe, a section's settings, an option. Whatever it holds, it is
read soon or refused in words."""

import stat
from pathlib import Path
from typing import Any

import yaml

from gradsift.datastore.errors import InputError

MOST_BYTES = 4 << 20
MOST_VALUES = 200_000  # keys, too; what is named once (`&a`) and used often (`*a`) counts as often as it is used
DEEPEST = 50
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
LONGEST_NUMBER = 100  # `1:1:1:…` is a number, too, and each part of it makes the sum longer


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
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _require_small(node)
        return loader.construct_document(node)
    except RecursionError:
        raise InputError(f"{where} is nested too deeply, over {DEEPEST} levels") from None
    except (yaml.YAMLError, ValueError) as error:  # a number or a date that is none
        raise InputError(f"{where} is not valid YAML: {error}") from error
    except (ArithmeticError, AttributeError, LookupError) as error:  # of PyYAML: `!!bool perhaps`, `!!int ""`
        raise InputError(f"{where} is not valid YAML: a value is not what its tag says") from error


def _require_small(node: yaml.Node) -> None:
    """Before anything is made of it: merge keys (`<<: [*a, *a]`) copy what they name while it is made."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, above: tuple[int, ...]) -> int:
        if isinstance(node, yaml.ScalarNode):
            if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
                raise ValueError(f"a number has over {LONGEST_NUMBER} characters")
            return 1
        if id(node) in above:
            raise ValueError("a part of it holds itself")
        if len(above) >= DEEPEST:
            raise RecursionError
        if id(node) not in sizes:
            inner = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else node.value
            sizes[id(node)] = 1 + sum(size(one, (*above, id(node))) for one in inner)
        return sizes[id(node)]

    if size(node, ()) > MOST_VALUES:
        raise ValueError(f"it holds over {MOST_VALUES:,} keys and values")
