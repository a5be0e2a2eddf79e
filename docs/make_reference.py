"""Write docs/reference.md from the code: recipe fields, commands, exit codes. A test checks that it is current."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gradsift.datastore import errors
from gradsift.pipelines.methods.registry import in_words, methods, rules, scores
from gradsift.pipelines.recipe import Recipe, section_of

COMMANDS = (
    "init",
    "run",
    "demo",
    "serve",
    "deploy",
    "runs",
    "methods",
    "select",
    "score",
    "overlap",
    "mix",
    "diff",
    "log",
    "checkout",
    "prune",
    "delete",
    "revive",
    "compact",
    "marks",
    "quarantine",
    "validate",
    "report",
    "query",
    "sql",
    "lineage",
    "explore",
    "index build",
    "index list",
    "index refresh",
    "index drop",
    "export",
    "status",
    "connect",
    "doctor",
    "verify",
    "gc",
)
QUARANTINE = """| reason | meaning |
|---|---|
| `broken_json` | the line is not JSON |
| `invalid_utf8` | the bytes are not UTF-8 |
| `not_an_object` | the row is not an object |
| `broken_row` | a row of a table has other cells than its first line names, or a quote that nobody closes |
| `unknown_shape` | none of messages, conversations, chosen, completion, instruction ([shapes](data.md)) |
| `missing_field`, `bad_field` | a field is absent, or is not text |
| `multimodal` | a part that is not text, or something under image, video or audio |
| `bad_tools`, `bad_tool_call` | tools, or calls of them, that are not JSON or name no function |
| `role_order` | roles out of order, or the last is not assistant ([roles](data.md#turns)) |
| `no_assistant`, `empty_assistant` | nothing to learn from |
| `nul`, `surrogate` | a NUL character or a lone surrogate in the text |
| `too_long` | a field over 1,000,000 characters, a chat over 1,000 turns, a row over 64 MiB or 2 million values |
"""


def fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Table rows of a section and its sub-sections."""
    lines = []
    for name, field in model.model_fields.items():
        inner, key = section_of(field.annotation), prefix + (field.alias or name)
        note = " ".join((field.description or "").split())
        if inner is not None:
            suffix = ".NAME" if "dict" in str(field.annotation) else "[]" if "list" in str(field.annotation) else ""
            note = note or " ".join((inner.__doc__ or "").split())
            lines.append(f"| `{key}` | | {note} |")
            if inner.__name__ != "Source" or prefix == "":
                lines += fields(inner, f"{key}{suffix}.")
            continue
        lines.append(f"| `{key}` | {default(field)} | {note} |")
    return lines


def default(field: Any) -> str:
    """Default value of a field as text."""
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True)
    return "" if value is None or value == {} else f"`{value}`"


def methods_section() -> list[str]:
    """The table of methods, and the options of every score and rule."""
    out = ["## Methods", "", "[What they are](methods.md). A name sets score, rule and options.", ""]
    out += ["| method | what | score → rule | needs | cost | source |", "|---|---|---|---|---|---|"]
    out += [
        f"| `{name}` | {m.what} | `{m.score}` → `{m.rule}` | {in_words(m)} | {m.cost} | {m.source} |"
        for name, m in methods().items()
    ]
    out += [
        "",
        "Cost comes on top of the pass: N pool rows, V target rows, J subtasks, D or H dims, K clusters, k picks.",
        "",
    ]
    for title, parts in (("Scores", scores()), ("Rules", rules())):
        out += [f"### {title}", "", "| name | what | options and defaults |", "|---|---|---|"]
        for name, part in sorted(parts.items()):
            given = inspect.signature(part.run).parameters.values()
            options = ", ".join(f"`{p.name}={p.default}`" for p in given if p.kind is p.KEYWORD_ONLY)
            what = " ".join((part.run.__doc__ or "").split("\n\n")[0].split())
            out.append(f"| `{name}` | {what} | {options} |")
        out.append("")
    return out


def page() -> str:
    """The whole page."""
    codes = {
        "0": "ok",
        "1": "unexpected; please report",
        "130": "interrupted (Ctrl-C); run again to go on",
        "143": "stopped by SIGTERM, as by Ctrl-C; run again to go on",
        "141": "who read what it prints stopped reading, as `head` does: nothing is wrong",
    }
    for error in (
        errors.InputError, errors.CorruptionError, errors.FeatureSpaceMismatch, errors.CatalogVersionError,
        errors.BusyError, errors.StoreFullError, errors.DiskError, errors.UnavailableError,
        errors.WorkerError,
    ):  # fmt: skip
        text = " ".join((error.__doc__ or "").split())
        known = codes.get(str(error.exit_code))
        codes[str(error.exit_code)] = f"{known} {text}" if known else text
    out = ["# Reference", "", "Made by `docs/make_reference.py`; do not edit.", "", "## Exit codes", ""]
    out += ["| code | meaning |", "|---|---|"]
    out += [f"| {code} | {text} |" for code, text in sorted(codes.items(), key=lambda item: int(item[0]))]
    out += [
        "",
        "An error is one line on standard error. With `--json` it is a document on standard output, too, so that this "
        'holds JSON however a command ends: `{"error": "…", "exit_code": 2}`. A command that has printed its document '
        "before (`gradsift verify`, `gradsift doctor`) prints no second one.",
    ]
    out += ["", "## Why a row is quarantined", "", QUARANTINE, "## Recipe", ""]
    out += ["Relative paths are taken from the recipe's folder. Unknown keys are refused.", ""]
    out += [
        "| field | default | meaning |",
        "|---|---|---|",
        *fields(Recipe),
        "",
        *methods_section(),
        "## Commands",
        "",
    ]
    for command in COMMANDS:
        text = subprocess.run(
            [sys.executable, "-m", "gradsift", *command.split(), "--help"], capture_output=True, text=True, check=True,
            env={"COLUMNS": "100", "PATH": "", "PYTHONPATH": str(Path(__file__).parents[1]), "LANG": "C.UTF-8"},
        ).stdout  # fmt: skip
        out += [
            f"### gradsift {command}",
            "",
            "```text",
            *(line.rstrip() for line in text.strip().splitlines()),
            "```",
            "",
        ]
    return "\n".join(out)


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(page(), "utf-8")
