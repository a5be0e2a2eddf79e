"""The dataset card of an export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import DatasetCardData

from gradsift.pipelines.tables import Row, markdown

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# Identifiers that the hub knows (huggingface.co/docs/hub/repositories-licenses) and data sets use; others are `other`.
LICENCES = frozenset(
    [
        "apache-2.0",
        "mit",
        "openrail",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cdla-sharing-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "wtfpl",
        "unlicense",
        "odc-by",
        "odbl",
        "pddl",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "agpl-3.0",
        "lgpl-3.0",
        "afl-3.0",
        "artistic-2.0",
        "etalab-2.0",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "gemma",
        "bigscience-openrail-m",
        "bigcode-openrail-m",
        "gfdl",
        "isc",
        "zlib",
    ]
)


def hub_licence(licence: str | None) -> str:
    """The hub's identifier of a licence: `unknown` without one, `other` for a name that the hub does not know."""
    if not licence or licence.strip().lower() in ("unknown", "none", "n/a"):
        return "unknown"
    plain = licence.strip().lower().replace("_", "-").replace(" ", "-").replace("apache2", "apache-2.0")
    return plain if plain in LICENCES else "other"


AGAIN = "`gradsift run recipe.yaml` makes this mixture again"


@dataclass(frozen=True)
class Card:
    """What the card of an export says. `what` is a sentence; `composition` one table, its columns those of the first
    row; `pattern` matches the data files; `licences` are {licence: rows}."""

    name: str
    what: str
    rows: int
    examples: int
    licences: Mapping[str, int]
    composition: Sequence[Row]
    pattern: str
    digest: str
    lineage: Row
    notes: Sequence[str]
    version: str  # of gradsift
    hub_sources: Sequence[str] = ()
    how: Sequence[Row] = ()  # how the rows were chosen; exports of older layouts do not say it
    columns: Sequence[Row] = ()
    again: str = AGAIN
    configs: str = "`trl.yaml`, `axolotl.yaml` and `dataset_info.json` (LLaMA-Factory) are ready configs for trainers."


def card(c: Card) -> str:
    """The README.md of an export."""
    repeated = f" ({c.examples:,} examples, some more than once)" if c.rows != c.examples else ""
    licences = [
        {"licence": key, "rows": count, "hub identifier": hub_licence(key)} for key, count in c.licences.items()
    ]
    parts = [
        f"---\n{_configuration(c).to_yaml()}\n---\n",
        f"# {c.name}\n",
        f"{c.rows:,} chats{repeated}. {c.what} Made by gradsift {c.version}.\n",
        "```python\nfrom datasets import load_dataset\n\n"
        'rows = load_dataset("path/to/this/folder", split="train")\n```\n',
        f"{c.configs}\n",
        *(("## How it was chosen\n", markdown(c.how)) if c.how else ()),
        "## Composition\n",
        markdown(_shown(c.composition)),
        *(f"{note}\n" for note in c.notes),
        *(("## Columns\n", markdown(c.columns)) if c.columns else ()),
        "## Licences\n",
        "As the sources state them; a mixture is bound by all of them.\n",
        markdown(licences),
        "## Lineage\n",
        markdown([{"what": key, "value": value} for key, value in c.lineage.items()]),
        "`manifest.json` has the sha256 of every file, `recipe.yaml` the settings: put it where its paths hold, and "
        f"{c.again}.\n",
    ]
    return "\n".join(parts)


def _configuration(c: Card) -> DatasetCardData:
    """The card's YAML. The digest is in the configuration: `datasets` keys its cache by the card's configurations
    and not by the files (5.2, `load.py`), so a second export into a folder of the same name would silently give the
    rows of the first."""
    return DatasetCardData(
        license=sorted({hub_licence(key) for key in c.licences}),
        size_categories=[next((label for limit, label in SIZES if c.rows < limit), "1M<n<10M")],
        task_categories=["text-generation"],
        tags=["gradsift", "sft", "conversational"],
        pretty_name=c.name,
        source_datasets=list(c.hub_sources) or None,
        configs=[
            {
                "config_name": "default",
                "description": f"gradsift export {c.digest}",
                "data_files": [{"split": "train", "path": c.pattern}],
            }
        ],
    )


def _shown(composition: Sequence[Row]) -> list[Row]:
    """The table without columns that say nothing: budgets that were met, examples that occur once, empty cells."""
    if not composition or "budget" not in composition[0]:
        return [dict(row) for row in composition]
    names = {"part": "part", "source": "source", "weight": "asked", "share": "got", "requested": "requested"}
    if any(row["budget"] != row["requested"] for row in composition):
        names["budget"] = "budget"
    names["rows"] = "rows"
    if any(row["examples"] != row["rows"] for row in composition):
        names["examples"] = "examples"
    names |= {n: n for n in ("tokens", "note") if any(row[n] for row in composition)}
    return [{shown: row[name] for name, shown in names.items()} for row in composition]
