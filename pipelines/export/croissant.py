"""croissant.json of an export: what its files and columns are, in JSON-LD that programs read (Croissant 1.1,
https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html).

Every file has its sha256. `rows` has a field for each column: texts, numbers and booleans, lists of them, and
`messages` as turns with `role` and `content`. Croissant has no type for objects of any shape: in Parquet, turns with
tools or calls are their JSON texts; in JSON lines such turns have `role` and `content`, and `tools` is not described.
No time or machine enters it: the version is the number that the selection has in the store, 0 where that is not told,
and its digest.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

import pyarrow as pa

from gradsift.datastore.runs import Json
from gradsift.pipelines.export.about import COLUMNS, OTHER_COLUMN

ROWS, FILES = "rows", "data-files"
FORMATS = {
    ".parquet": "application/x-parquet", ".jsonl": "application/jsonlines", ".json": "application/json",
    ".yaml": "application/yaml", ".csv": "text/csv", ".md": "text/markdown",
}  # fmt: skip
KEYWORDS = ("gradsift", "sft", "conversational")
CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{
        term: f"cr:{term}"
        for term in (
            "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject",
            "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
            "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
            "separator", "source", "subField", "transform",
        )
    },
}  # fmt: skip


@dataclass(frozen=True)
class About:
    """What croissant.json says of an export. `version` is a sentence that begins with NAME@NUMBER, or ''; `method` how
    the rows were chosen; `schema` the columns of the data files, whose names match `pattern`."""

    name: str
    what: str
    method: str
    rows: int
    licences: Iterable[str]
    version: str
    selection: str  # its digest
    program: str  # version of gradsift
    schema: pa.Schema
    pattern: str


def croissant(about: About, files: Mapping[str, tuple[int, str]]) -> str:
    """The text of croissant.json, for {file name: (bytes, sha256)} of all other files of the export."""
    data = [name for name in files if PurePosixPath(name).match(about.pattern)]
    suffix = PurePosixPath(about.pattern).suffix
    # Of one file its reader checks the digest; several are a set, which has none.
    source = {"fileObject": {"@id": data[0]}} if len(data) == 1 else {"fileSet": {"@id": FILES}}
    several = {"@type": "cr:FileSet", "@id": FILES, "encodingFormat": FORMATS[suffix], "includes": about.pattern}
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": about.name,
        "description": f"{about.rows:,} chats. {about.what}",
        "license": sorted(about.licences),
        "citeAs": _citation(about),
        "version": _version(about),
        "keywords": list(KEYWORDS),
        "distribution": [*(_file(name, *files[name]) for name in files), *([several] if len(data) != 1 else [])],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": ROWS,
                "description": "a row for each chat, one more for each copy of it",
                "field": [_field(column, source) for column in about.schema],
            }
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def schema(columns: Iterable[str], known: pa.Schema) -> pa.Schema:
    """Types of the columns of JSON lines, which do not say theirs; `known` has those of the rows' facts."""
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    ours = {"messages": turns, "copy": pa.int32(), "weight": pa.float64()}
    ours |= {name: pa.list_(pa.int32()) for name in ("input_ids", "attention_mask", "labels")}
    types = {**{column.name: column.type for column in known}, **ours}
    return pa.schema([(name, types[name]) for name in columns if name in types])


def _file(name: str, size: int, sha: str) -> Json:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": FORMATS[PurePosixPath(name).suffix],
        "sha256": sha,
    }


def _field(column: pa.Field, source: Json) -> Json:
    here = f"{ROWS}/{quote(column.name, safe='')}"
    taken = source | {"extract": {"column": column.name}}
    said = {
        "@type": "cr:Field",
        "@id": here,
        "name": column.name,
        "description": COLUMNS.get(column.name, OTHER_COLUMN),
    }
    kind, array = column.type, {}
    if pa.types.is_list(kind):
        kind, array = kind.value_type, {"isArray": True, "arrayShape": "-1"}
    if pa.types.is_struct(kind):
        parts = [
            {
                "@type": "cr:Field",
                "@id": f"{here}/{part.name}",
                "name": part.name,
                "dataType": _type(part.type),
                "source": taken | {"transform": {"jsonPath": part.name}},
            }
            for part in kind
        ]
        return said | array | {"subField": parts}
    return said | array | {"dataType": _type(kind), "source": taken}


def _type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"


def _version(about: About) -> str:
    number = re.search(r"@(\d+)(?:,|$)", about.version)
    return f"{number[1] if number else 0}.0.0+{about.selection[:12]}"


def _citation(about: About) -> str:
    """A BibTeX entry without a year, which no file of an export says."""
    note = f"{about.rows:,} chats chosen by {about.method}, made by gradsift {about.program}, {about.selection[:12]}"
    return f"@misc{{{about.name}-{about.selection[:12]}, title = {{{about.name}}}, note = {{{note}}}}}"
