"""A recipe for data and a model that were looked at: commented YAML, which loads and runs as it is."""

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from gradsift.datastore.errors import InputError
from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.pool.files import bare_name
from gradsift.pipelines.pool.warnings import unread_words
from gradsift.pipelines.recipe import Recipe, parse_recipe
from gradsift.pipelines.runs.data import read_aside
from gradsift.pipelines.runs.dryrun import Plan, plan_run
from gradsift.pipelines.runs.survey import Length, PoolSeen, Screened, length_of, look_at_pool, refusals, screened
from gradsift.pipelines.tables import printable

HUB = "hub:"
WIDTH = 80  # columns of the text
FILES = 20  # of the pool, that are listed
MANY_LEAKS = 0.1  # of the usable rows: more are worth a look
FRACTION, LEAST_ROWS, MOST_SHARE = 0.05, 100, 0.25  # of the pool to select, if that is enough rows


Places = Mapping[str, str | Path] | Sequence[str]  # by name, or texts NAME=PLACE


@dataclass(frozen=True)
class Asked:
    """What a recipe is wanted for: places as the user gives them, a path or `hub:owner/name`, and the recipe's file."""

    pool: str
    out: Path
    model: str | None = None
    targets: Mapping[str, str] = field(default_factory=dict)
    tests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, pool: str | None, out: Path, model: str | None, targets: Places, tests: Places) -> "Asked":
        """As a user gives it. Raises InputError for what cannot be meant."""
        if pool is None:
            raise InputError("give the pool, a file or folder of rows; `gradsift init --example` lists pools to try")
        return cls(pool, out, model, _named("target", targets), _named("test", tests))


@dataclass(frozen=True)
class Findings:
    """What looking gave: parts that were not looked at (yet) are None."""

    pool: PoolSeen
    screened: Screened | None = None
    length: Length | None = None
    plan: Plan | None = None


@dataclass(frozen=True)
class Proposal:
    """A recipe as text, and what it follows from."""

    text: str
    findings: Findings


def propose(asked: Asked, store: Path, started: float = 0.0) -> Proposal:
    """Look at pool, targets and model, and write a recipe for them; minutes are those of a dry run against `store`,
    with `started` seconds before its first stage. Writes no file.

    Raises InputError for what a run would refuse: data that are not there, no usable row, test rows in a `val`.
    """
    if strangers := sorted(set(asked.tests) - set(asked.targets)):
        raise InputError(f"--test {strangers[0]}: there is no target of that name; give --target {strangers[0]}=FILE")
    pool = parse_recipe({"name": "p", "pool": [_place(asked.pool)], "mix": {"fraction": 1}}, "pool", Path()).pool[0]
    findings = Findings(look_at_pool(pool))
    recipe = _recipe(asked, findings)
    loaded = open_model(recipe.model) if recipe.lm is not None else None
    with read_aside(recipe, None) as data:
        length = length_of(data, loaded, recipe.model) if loaded is not None else None
        findings = replace(findings, screened=screened(data), length=length)
    findings = replace(findings, plan=plan_run(_recipe(asked, findings), store, started=started))
    return Proposal(recipe_text(asked, findings), findings)


def _named(what: str, given: Places) -> dict[str, str]:
    """{name: place}."""
    if isinstance(given, Mapping):
        return {name: str(place) for name, place in given.items()}
    pairs: dict[str, str] = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not (name and sign and value):
            raise InputError(f"{what} {one!r}: give NAME=FILE, such as sql=rows.jsonl")
        if name in pairs:
            raise InputError(f"{what} {name!r} is given twice; put the rows into one file")
        pairs[name] = value
    return pairs


def _recipe(asked: Asked, findings: Findings) -> Recipe:
    """The recipe that the text so far is."""
    return parse_recipe(yaml.safe_load(recipe_text(asked, findings)), str(asked.out), asked.out.parent)


def recipe_text(asked: Asked, findings: Findings) -> str:
    """The recipe: every line of YAML has a comment behind or above it."""
    parts = [_head(asked, findings), _pool(asked, findings), _targets(asked, findings), _screening(asked, findings)]
    parts += [_model(asked, findings), _budget(asked, findings), _validate(asked)]
    return "\n".join("\n".join(part) + "\n" for part in parts if part)


def _head(asked: Asked, findings: Findings) -> list[str]:
    lines = _note(
        "Proposed by `gradsift init` after looking at the data. Change what you know better; what is not here has "
        f"its default. `gradsift run {asked.out.name} --dry-run` looks again, without `--dry-run` it runs."
    )
    if findings.plan is not None:
        stages = {stage: _duration(60 * minutes) for stage, minutes in findings.plan.minutes.items()}
        total = _duration(60 * sum(findings.plan.minutes.values()))
        lines += _note(
            f"A run takes about {total} on this machine: {', '.join(f'{n} {t}' for n, t in stages.items())}. "
            f"Estimated from a few batches{_kept(findings.plan)}."
        )
        lines += [line for note in findings.plan.notes for line in _note(f"Note: {note}")]
    lines.append("")
    lines += _line(f"name: {_name(asked)}", "of the run and of its exports")
    return [*lines, *_line("seed: 0", "decides every random choice: same seed and data, same rows")]


def _kept(plan: Plan) -> str:
    return ", without what the store has already" if plan.checkpoints_kept or plan.arms_kept else ""


def _pool(asked: Asked, findings: Findings) -> list[str]:
    seen, folder = findings.pool, asked.out.parent
    refused = seen.rows - seen.usable
    lines = _note(
        f"The pool: {_count(len(seen.files), 'file')}, {_count(seen.rows, 'row')}, of which {seen.usable:,} "
        f"({_percent(seen.usable, seen.rows)}) can be read as chats."
    )
    lines += _files(seen)
    if refused:
        lines += _note(f"Refused: {refusals(seen)}. After a run, `gradsift quarantine` lists each.")
    lines += [line for one in seen.unread for line in _note(f"Not read: {unread_words(one)}")]
    lines.append("pool:")
    lines += _line(f"  - {_where(asked.pool, folder)}", "where the rows are; more sources may follow, each as one item")
    lines += _note(_sources(seen), 4)
    lines += _note(_licences(seen), 4)
    if seen.columns:
        named = ", ".join(seen.columns[:8]) + (", …" if len(seen.columns) > 8 else "")
        lines += _note(f"Other columns are kept and come out in exports as `extra`: {named}.", 4)
    return lines


def _files(seen: PoolSeen) -> list[str]:
    lines = []
    for one in seen.files[:FILES]:
        bad = sum(one.refused.values())
        shapes = ", ".join(one.shapes) or "nothing usable"
        told = f"{Path(one.file).name}: {_count(one.rows, 'row')}, {shapes}{f'; {bad:,} refused' if bad else ''}"
        lines += _note(f"  {told}")
    more = len(seen.files) - FILES
    return [*lines, *(_note(f"  and {_count(more, 'more file')}") if more > 0 else [])]


def _sources(seen: PoolSeen) -> str:
    listed = ", ".join(f"{name} {rows:,}" for name, rows in seen.sources.items())
    more = seen.n_sources - len(seen.sources)
    rest = f", and {more:,} more" if more > 0 else ""
    if not seen.named_source:
        how = "No row has a field `source`: its file names it. If another field does, set `source_field`."
    elif seen.named_source == seen.usable:
        how = "Each row names its source in the field `source`."
    else:
        how = f"{seen.named_source:,} rows name their source in the field `source`, the others go by their file."
    return f"{how} Sources, in usable rows: {listed}{rest}."


def _licences(seen: PoolSeen) -> str:
    known = sum(seen.licences.values())
    listed = ", ".join(f"{name} {rows:,}" for name, rows in list(seen.licences.items())[:6])
    unknown = seen.usable - known
    if not known:
        return "No row names a licence (fields `licence`, `license`): if you know it, add `licence: NAME` here."
    return f"Licences: {listed}" + (f"; {unknown:,} rows name none." if unknown else "; every row names one.")


def _targets(asked: Asked, findings: Findings) -> list[str]:
    if not asked.targets:
        return _note(
            "To choose rows by what they teach, give a target: some 8 to 100 chats of what the model should do, and "
            "others of the kind to measure on. Add\n"
            "  targets:\n    NAME:\n      val: {path: val.jsonl}\n      test: {path: test.jsonl}\n"
            "and `select` instead of `mix`; or let `gradsift init POOL MODEL --target NAME=val.jsonl "
            "--test NAME=test.jsonl` write it."
        )
    counts = findings.screened
    lines = _note(
        "What the model should do." if asked.model else "Rows that the mixture must not contain (there is no model)."
    )
    lines.append("targets:")
    for name, val in asked.targets.items():
        rows = f"{_count(counts.targets[name], 'row')}: " if counts else ""
        use = "what the selection looks at" if asked.model else "kept out of the mixture"
        lines += _line(f"  {name}:", "a name of your own")
        lines += _line(f"    val: {{{_where(val, asked.out.parent)}}}", f"{rows}{use}")
        if name in asked.tests:
            rows = f"{_count(counts.tests[name], 'row')}: " if counts else ""
            use = "only to measure on, never selected by" if asked.model else "kept out of the mixture"
            lines += _line(f"    test: {{{_where(asked.tests[name], asked.out.parent)}}}", f"{rows}{use}")
    return lines


def _screening(asked: Asked, findings: Findings) -> list[str]:
    counts = findings.screened
    leaks = {why: rows for why, rows in counts.left_out.items() if _leaks(why)} if counts else {}
    others = {why: rows for why, rows in counts.left_out.items() if not _leaks(why)} if counts else {}
    why = "near-duplicates are left out of the pool (the same chat twice always is)"
    lines = _line("dedup: {}", f"{why}{_counted(others) if counts else ''}")
    if asked.targets:
        why = (
            f"rows that repeat a row of a target or its test are left out, as leaks{_counted(leaks) if counts else ''}"
        )
        if counts and sum(leaks.values()) > MANY_LEAKS * findings.pool.usable:
            why += (
                ". That is much: where questions are all alike by nature, `decontaminate: {share: 0.9}` keeps more of "
                "them; after a run, `gradsift marks` shows each beside its twin"
            )
        lines += _line("decontaminate: {}", why)
    if counts:
        lines += _note(f"Of {findings.pool.usable:,} usable rows {counts.rows:,} stay.")
    return lines


def _leaks(reason: str) -> bool:
    return "leak" in reason or "test" in reason


def _counted(left_out: Mapping[str, int]) -> str:
    told = ", ".join(f"{rows:,} {reason.replace('_', ' ')}" for reason, rows in left_out.items())
    return f" (here: {told or 'none'})"


def _model(asked: Asked, findings: Findings) -> list[str]:
    if asked.model is None:
        return _note(
            "Without a model nothing is known of tokens or gradients. With one (`model: {path: FOLDER}`, a causal "
            "language model) and a target, rows can be chosen by what they teach it."
        )
    use = "to be fine-tuned: its gradients decide" if asked.targets else "its tokenizer; its template makes labels"
    lines = [*_note(f"The model {use}."), "model:"]
    lines += _line(f"  {_where(asked.model, asked.out.parent)}", "`path` for a folder, `hub` for one of Hugging Face's")
    length = findings.length
    if length is None:
        return lines
    limit = f"the model has {length.positions:,} positions" if length.positions else "the model states no limit"
    what = f"95 % of {_count(length.sampled, 'chat')} have at most {length.percentile:,} tokens"
    lines += [*_note("How a chat becomes tokens."), "encoding:"]
    lines += _line(f"  max_length: {length.max_length}", f"{what}; {limit}. Longer ones are cut{_usable(findings)}")
    if length.lost:
        why = f"{length.lost}, if the start were kept; so the answer is, and the prompt loses its middle"
    elif asked.targets:
        why = "a long row keeps its start, as trainers do; of each target at most 5 % lose their answer by that"
    else:
        why = "a long row keeps its start, as trainers do; `keep_answer` cuts the prompt's middle instead"
    return [*lines, *_line(f"  truncation: {length.truncation}", why)]


def _usable(findings: Findings) -> str:
    return f"; {100 * findings.plan.usable_share:.1f} % of rows keep a label" if findings.plan is not None else ""


def _budget(asked: Asked, findings: Findings) -> list[str]:
    rows = findings.screened.rows if findings.screened else 0
    if asked.model is None or not asked.targets:
        lines = [*_note("One mixture of the whole pool, each source by its size."), "mix:"]
        return [*lines, *_line("  fraction: 1.0", f"all {rows:,} rows that screening leaves; less draws at random")]
    share = fraction_of(rows)
    lines = [*_note("What to choose for each target."), "select:"]
    lines += _line("  method: less", "by gradients; `gradsift methods` lists others, `bm25` needs no model")
    why = f"about {round(share * rows):,} of {rows:,} rows. "
    if share == FRACTION:
        why += "5 % is what the paper of LESS took; try 0.1 and 0.02 too, by `gradsift select`, at no new gradients"
    else:
        why += f"5 % would be {round(FRACTION * rows):,}, too few to train on; more than a quarter is hardly a choice"
    return [*lines, *_line(f"  fraction: {share:g}", why)]


def fraction_of(rows: int) -> float:
    """Share of a pool to select: 5 %, or what gives 100 rows, but not more than a quarter."""
    return min(MOST_SHARE, max(FRACTION, round(LEAST_ROWS / max(1, rows), 2)))


def _validate(asked: Asked) -> list[str]:
    if not asked.targets or asked.model is None:
        return []
    if missing := [name for name in asked.targets if name not in asked.tests]:
        return _note(
            f"No `validate`: {', '.join(missing)} has no `test`. With held-out rows as `test`, "
            "`validate: {seeds: [0, 1, 2]}` trains on the choice and on random rows, and says whether it helps."
        )
    lines = [*_note("Does it help? Trains on what was chosen and on as many random rows, and compares."), "validate:"]
    why = "three trainings each, so that chance can be told from a difference. Leave `validate` out to save its time"
    return [*lines, *_line("  seeds: [0, 1, 2]", why)]


def _line(text: str, why: str) -> list[str]:
    """YAML with its reason: behind it where that fits, else above it."""
    one = f"{text}  # {why}"
    return [one] if len(one) <= WIDTH else [*_note(why, len(text) - len(text.lstrip())), text]


def _note(text: str, indent: int = 0) -> list[str]:
    """A comment, wrapped; lines of data in it that cannot be shown are made so, lines that begin with a space stay."""
    start = " " * indent + "# "
    lines: list[str] = []
    for part in text.split("\n"):
        shown = printable(part)
        broken = textwrap.wrap(shown, WIDTH - len(start), break_long_words=False, break_on_hyphens=False)
        lines += [start + shown] if part.startswith(" ") else [start + line for line in broken]
    return lines


def _place(given: str) -> dict[str, str]:
    """A source or model as the user names it, by an absolute path."""
    if given.startswith(HUB):
        return {"hub": given.removeprefix(HUB)}
    return {"path": str(Path(given).expanduser().absolute())}


def _where(given: str, folder: Path) -> str:
    """The same as YAML, a path from the recipe's folder where it lies below that or beside it."""
    ((key, value),) = _place(given).items()
    if key == "path":
        short = os.path.relpath(Path(value).resolve(), folder.resolve())
        far = short.startswith(os.path.join("..", ".."))  # noqa: PTH118 - the system's separator
        value = str(Path(value).resolve()) if far else Path(short).as_posix()
    return f"{key}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    """A text as YAML in one line, also inside braces."""
    inside: str = yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True)
    return inside.strip()[1:-1]


def _name(asked: Asked) -> str:
    given = asked.pool.removeprefix(HUB).rstrip("/")
    name = bare_name(Path(given).absolute())
    if name in ("pool", "data", "train"):
        name = Path(given).absolute().parent.name or name
    short = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48].strip("-")
    return _scalar(short) if short else "curation"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _percent(part: int, whole: int) -> str:
    share = 100 * part / max(1, whole)
    return "all" if part == whole else f"{min(share, 99.9):.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def refuse_overwrite(out: Path) -> None:
    """Raise InputError for a file that is there."""
    if out.exists():
        raise InputError(f"{out} is there already; --force writes over it, --out names another file")


def write_recipe(out: Path, text: str) -> None:
    """Write a recipe. Raises InputError where it cannot be written."""
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; name another file with --out") from error
