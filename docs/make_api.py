"""Write docs/api.md from the signatures and docstrings of `gradsift.__all__`. A test checks that it is current.

A docstring is a summary, prose, and the underlined sections Parameters, Returns, Raises and Example. The example is a
doctest, which a test runs; here it is plain code, and what it prints is a comment.
"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import gradsift

GROUPS = {
    "A store": ("open_store", "status", "connect"),
    "Runs": ("init", "dry_run", "run", "runs", "serve", "deploy", "demo"),
    "Where rows went": ("quarantine", "marks", "lineage"),
    "Search": ("explore", "query", "query_sql", "index_build", "index_list", "index_refresh", "index_drop"),
    "Selections and mixtures": ("methods", "select", "score", "overlap", "mix"),
    "Results": ("export", "validate", "report", "reports", "report_data"),
    "Versions": ("diff", "log", "checkout", "prune"),
    "Upkeep": ("verify", "doctor", "compact", "gc"),
    "Deletion": ("delete", "deleted", "revive"),
    "Parts": ("Store", "load_recipe", "parse_recipe", "curate", "neighbours", "GradsiftError"),
}
SECTIONS = ("Parameters", "Returns", "Raises", "Example")
INTRODUCTION = """# Python

Made by `docs/make_api.py` from the code; do not edit.

`import gradsift` gives what the command line does as functions. A store is a folder (`str` or `Path`) or a `Store` that
`gradsift.open_store` opened; nothing is printed, and results are values: frozen dataclasses whose fields are
[below](#values). A program that asks more than once opens its store once. A folder that is no store is an error, and
only a run makes one. Every error of gradsift is a `GradsiftError` that names the next step.

A whole example, on the store of a run of `recipe.yaml`:

```python
import gradsift

result = gradsift.run("recipe.yaml", "store")  # goes on where it was interrupted; computes nothing twice
for selection in result.selections:
    print(selection.name, selection.version)

with gradsift.open_store("store") as store:
    found = gradsift.query("How many rows are in the table?", answer="SELECT count(*) FROM rows", k=3, store=store)
    for hit in found.hits:
        print(hit.cosine, hit.source, hit.user)
    for chosen in gradsift.select("bm25", examples=10, name="ten", store=store):
        print(chosen.name, chosen.version)
```

Every example below begins with `import gradsift`, and is run by a test. Type checkers see all of it, and refuse a name
that is not there. Why it is as it is: [ADR 20](adr/0020-python-api.md).
"""


def parts(doc: str) -> dict[str, str]:
    """A docstring's text by section; what comes before the first is under ''."""
    found: dict[str, list[str]] = {"": []}
    section = ""
    for line in inspect.cleandoc(doc).splitlines():
        if line in SECTIONS:
            section = line
            found[section] = []
        elif not (section and line and set(line) == {"-"}):
            found[section].append(line)
    return {name: "\n".join(lines).strip("\n") for name, lines in found.items()}


def code(example: str) -> str:
    """A doctest as plain code: prompts go, what it prints becomes comments, a blank line follows imports."""
    lines = [line[4:] if line.startswith((">>>", "...")) else f"# {line}".rstrip() for line in example.splitlines()]
    lines = [line.removesuffix("  # doctest: +SKIP") for line in lines]  # where it needs a server
    imports = sum(line.startswith(("import ", "from ")) for line in lines)
    return "\n".join([*lines[:imports], *([""] if imports else []), *lines[imports:]])


def entries(text: str) -> list[tuple[str, str]]:
    """(name, meaning) of a section: names stand at the margin, meanings are indented below them."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            found.append((line.strip(), ""))
        elif found:
            name, meaning = found[-1]
            found[-1] = (name, f"{meaning} {line.strip()}".strip())
    return found


def function_of(thing: Any) -> ast.FunctionDef:
    """The definition of a function, or of a class's `__init__`, as written."""
    source = textwrap.dedent(inspect.getsource(thing.__init__ if inspect.isclass(thing) else thing))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)  # noqa: S101
    return definition


def written(node: ast.expr | None) -> str:
    """An annotation as it is read: without the quotes of a name that is imported for type checkers alone."""
    if node is None:
        return ""
    return str(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def signature(name: str, thing: Any) -> str:
    """The call as written, a parameter a line where it is long."""
    found = function_of(thing)
    given = found.args
    plain = [arg for arg in [*given.posonlyargs, *given.args] if arg.arg != "self"]
    defaults = dict(zip([arg.arg for arg in plain][len(plain) - len(given.defaults) :], given.defaults, strict=True))
    defaults |= {arg.arg: d for arg, d in zip(given.kwonlyargs, given.kw_defaults, strict=True) if d is not None}
    star = ["*"] if given.kwonlyargs else []

    def one(arg: ast.arg) -> str:
        default = f" = {ast.unparse(defaults[arg.arg])}" if arg.arg in defaults else ""
        return f"{arg.arg}: {written(arg.annotation)}{default}"

    inside = [one(arg) for arg in plain] + star + [one(arg) for arg in given.kwonlyargs]
    gives = "" if inspect.isclass(thing) else f" -> {written(found.returns)}"
    line = f"gradsift.{name}({', '.join(inside)}){gives}"
    if len(line) <= 100:
        return line
    return "\n".join([f"gradsift.{name}(", *(f"    {each}," for each in inside), f"){gives}"])


def section(name: str) -> list[str]:
    """What the page says of one public name."""
    thing = getattr(gradsift, name)
    text = parts(inspect.getdoc(thing) or "")
    out = [f"### {name}", ""]
    if not (inspect.isclass(thing) and issubclass(thing, Exception)):
        out += ["```text", signature(name, thing), "```", ""]
    out += [escaped(text[""]), ""]
    if "Parameters" in text:
        out += ["| parameter | meaning |", "|---|---|"]
        out += [f"| `{name}` | {cell(meaning)} |" for name, meaning in entries(text["Parameters"])]
        out.append("")
    for title in ("Returns", "Raises"):
        out += [f"{title} `{name}`: {escaped(meaning)}\n" for name, meaning in entries(text.get(title, ""))]
    if "Example" in text:
        out += ["```python", code(text["Example"]), "```", ""]
    return out


def escaped(text: str) -> str:
    """Prose of a docstring as Markdown takes it."""
    return text.replace("[", "\\[").replace("``", "`")


def cell(text: str) -> str:
    """Prose for a table."""
    return " ".join(escaped(text).split()).replace("|", "\\|")


def returned() -> list[type]:
    """The dataclasses that public functions give, and all that are inside of these, in the order of meeting."""
    found: dict[type, None] = {}
    for name in ordered():
        function = getattr(gradsift, name)
        if inspect.isfunction(function):
            known = names_in(function)
            for word in re.findall(r"\w+", written(function_of(function).returns)):
                found |= dict.fromkeys(inside(known.get(word)))
    return list(found)


def names_in(thing: Any) -> dict[str, Any]:
    """What the names in a thing's module mean, those that are imported for type checkers alone, too."""
    module = inspect.getmodule(thing)
    known = dict(vars(module))
    top = ast.parse(inspect.getsource(module)).body  # type: ignore[arg-type]
    for node in [*top, *(inner for block in top if isinstance(block, ast.If) for inner in block.body)]:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gradsift"):
            there = import_module(node.module or "")
            known |= {alias.asname or alias.name: getattr(there, alias.name) for alias in node.names}
    return known


def inside(kind: Any, seen: frozenset[Any] = frozenset()) -> Iterator[type]:
    """Gradsift's own dataclasses in a type: itself, then those of its fields."""
    if kind in seen:
        return
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind.__module__.startswith("gradsift"):
        yield kind
        hints = typing.get_type_hints(kind, localns=names_in(kind))
        for field in dataclasses.fields(kind):
            yield from inside(hints[field.name], seen | {kind})
    for part in typing.get_args(kind):
        yield from inside(part, seen)


def value(kind: type, others: Sequence[type]) -> list[str]:
    """What the page says of a dataclass: its text, its fields with their types. Two of one name have their modules."""
    same = [other for other in others if other.__name__ == kind.__name__]
    title = kind.__name__ if len(same) == 1 else f"{kind.__name__} of {kind.__module__}"
    out = [f"### {title}", "", escaped(inspect.cleandoc(kind.__doc__ or "")), "", "| field | type |", "|---|---|"]
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    types = {node.target.id: written(node.annotation) for node in ast.walk(tree)
             if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}  # fmt: skip
    hints, bar = typing.get_type_hints(kind, localns=names_in(kind)), "\\|"  # a table's own bar would end the cell
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if not field.name.startswith("_"):
            kept = types.get(field.name) or re.sub(r"\b[\w.]+\.(?=\w)", "", str(hints[field.name]))
            out.append(f"| `{field.name}` | `{kept.replace('|', bar)}` |")
    return [*out, ""]


def ordered() -> list[str]:
    """Public names in the order of the groups; those of no group come last."""
    known = [name for names in GROUPS.values() for name in names if name in gradsift.__all__]
    return known + [name for name in gradsift.__all__ if name not in known and not name.startswith("__")]


def page() -> str:
    """The whole page."""
    out = [INTRODUCTION]
    rest = [name for name in ordered() if not any(name in names for names in GROUPS.values())]
    for title, names in [*GROUPS.items(), ("More", rest)]:
        given = [name for name in names if name in gradsift.__all__]
        if given:
            out += [f"## {title}", ""]
            for name in given:
                out += section(name)
    out += [
        "## Values",
        "",
        "What the functions give, with the values that are inside. All are frozen dataclasses.",
        "",
    ]
    kinds = returned()
    for kind in kinds:
        out += value(kind, kinds)
    return "\n".join(out).rstrip("\n") + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "api.md").write_text(page(), "utf-8")
    sys.stdout.write(f"{len(ordered())} names\n")
