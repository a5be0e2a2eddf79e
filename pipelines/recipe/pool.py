"""Sections about the pool: where rows come from, the targets, what screening leaves out."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gradsift.datastore.errors import InputError
from gradsift.datastore.predicates import OF_ROW, Predicate
from gradsift.pipelines.recipe.section import Section, exactly_one

Metric = Literal["loss", "exact", "number", "choice", "f1"]


class Source(Section):
    """Where examples are read from."""

    path: str | None = None
    """A file (.jsonl, .ndjson, .json, .parquet, .csv, .tsv, also .gz and .zst), a folder of such files, or a folder
    that `datasets` saved: [data](data.md)."""
    hub: str | None = None
    """A Hugging Face dataset name (needs network, or the local cache)."""
    config: str | None = None
    """Configuration of the Hugging Face dataset."""
    split: str = "train"
    """Split of the Hugging Face dataset."""
    name: str | None = None
    """Source name of its rows; default: the `source_field` of each row, else the file's or dataset's name."""
    source_field: str | None = "source"
    """Row field that holds the source name."""
    licence: str | None = None
    """Licence of its rows; default: the `licence` or `license` field of each row."""
    shape: Literal["auto", "messages", "conversations", "preference", "prompt_completion", "alpaca"] = "auto"
    """How a row holds its chat; `auto` looks at the keys, row by row. Of a `preference` the chosen side is read."""
    mapping: dict[str, str] = Field(default_factory=dict)
    """Rename row fields first: {our field: their field}, e.g. {input: context, output: response}."""
    subtask_field: str | None = "subtask"
    """Row field that names the subtask (targets only)."""
    rows: Annotated[int, Field(gt=0)] | None = None
    """Read at most this many distinct chats, a seeded random sample: the same for any order and names of the files."""

    unpack_limit: Annotated[int, Field(gt=0)] = 1000
    """A packed or Parquet file may unpack to so many times its size, or to 64 MiB if that is more; one that unpacks to
    more is refused, for it may be made to fill the machine. A text that a Parquet file has once counts once."""

    where: str | None = None
    """Leave out rows of which this does not hold: what stands after WHERE in SQL, over `source`, `licence`, `line`,
    `chars`, `text` and `extra`, the other columns, e.g. "extra->>'quality' >= 4". `rows` draws from what is left."""
    keep: bool | list[str] = True
    """Which other columns of a row the store keeps, to filter on and to come out in exports: all, none, or these."""

    @model_validator(mode="after")
    def _one_place(self) -> "Source":
        exactly_one(self, "path", "hub")
        return self

    @model_validator(mode="after")
    def _a_predicate(self) -> "Source":
        """Raises ValueError for a `where` that is none, and for one about columns that are not kept."""
        if self.where is None:
            return self
        asked = Predicate(self.where, OF_ROW, "`where`")
        try:
            asked.of([])
        except InputError as error:
            raise ValueError(str(error)) from None
        finally:
            asked.close()
        kept = asked.absent if self.keep is True else set(self.keep or ())
        if lost := sorted(asked.absent - kept):
            raise ValueError(f"`where` looks at {lost[0]!r}, which `keep` leaves out: add it to `keep`")
        return self


class Target(Section):
    """A capability, embodied by a few examples."""

    val: Source
    """What a selection may look at."""
    test: Source | None = None
    """Held-out rows for validation only."""
    metric: Metric = "loss"
    """Checks generated answers of test rows too: `exact` text, last `number`, `choice` letter, or word `f1`."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    """Of an answer that is generated for the metric."""
    own_sources: list[str] = Field(default_factory=list)
    """Pool sources known to teach it: reports give their share in each selection. Never used to select."""
