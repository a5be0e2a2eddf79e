"""The view of the pool as a map: places, shades and filters as bytes, rows as JSON, and what is shown as a selection.

Bytes begin with a head: its length (four bytes, the lowest first) and that many bytes of JSON; then follow numbers, one
for each example of the map, in the order of their ids. `key` in a head names the map that they are of.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import parse_qs

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from gradsift.datastore import chats, choices, examples, runs
from gradsift.explorer.security import led_here
from gradsift.explorer.shared import OpenStore, excerpt, page, visible
from gradsift.pipelines.query.by_hand import select_by_hand
from gradsift.pipelines.query.filters import Filter, ids_passing, of_selection, range_of
from gradsift.pipelines.query.find import MOST_CHARS, holding
from gradsift.pipelines.query.map import By, Map, kinds, open_map
from gradsift.pipelines.query.shades import OF_SELECTION, SHADINGS, Shading, places_of, shade, shades_of, shadings

router = APIRouter()
MOST_ROWS = 100  # of one request
WORDS = 140  # characters of a row, in a list
U8 = NDArray[np.uint8]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Text = Annotated[str, Query(max_length=500)]


class Wanted(BaseModel):
    """Filters as they stand in a URL."""

    source: list[str] = Field(default_factory=list)
    licence: list[str] = Field(default_factory=list)
    chars: str = ""
    loss: str = ""
    score: str = ""
    cluster: str = ""
    selected_in: str = ""
    where: str = Field("", max_length=2_000)
    words: str = Field("", max_length=MOST_CHARS)

    def filter(self) -> Filter:
        """What they mean. Raises InputError for what means nothing."""
        return Filter(
            sources=tuple(self.source),
            licences=tuple(self.licence),
            chars=range_of(self.chars or None, "characters"),
            loss=range_of(self.loss or None, "loss"),
            score=of_selection(self.score or None, "score"),
            cluster=of_selection(self.cluster or None, "cluster"),
            selected_in=self.selected_in or None,
            where=self.where or None,
        )


class Drawn(BaseModel):
    """Rows to save: under which name, which, and the query string of the view that showed them."""

    name: str = Field(max_length=64)
    ids: list[Id] = Field(max_length=1_000_000)
    view: str = Field("", max_length=20_000)


def _map_of(store: OpenStore, by: By = "gradients") -> Map:
    return open_map(store, by)


OpenMap = Annotated[Map, Depends(_map_of)]


@router.get("/map", response_class=HTMLResponse)
def view(request: Request, store: OpenStore) -> HTMLResponse:
    """The page; what it shows of the pool is fetched by its script."""
    chosen = [one for one in reversed(choices.choices(store)) if one.void is None]
    selections = {one.reference: shades_of(store, one.selection_id) for one in chosen}
    there = {by for of in selections.values() for by in of}
    offered = {by: SHADINGS[by] for by in shadings(store) if by not in OF_SELECTION or by in there}
    return page(
        request, "map.html.j2", title="Map", kinds=_kinds(store), shadings=offered, selections=selections,
        led=led_here(request.headers),
    )  # fmt: skip


def _kinds(store: OpenStore) -> list[By]:
    """What the pool is laid out by: nothing, where it has no rows; [] where there is no pool."""
    has_pool = next(runs.finished(store), None) is not None
    return kinds(store) or (["nowhere"] if has_pool else [])


@router.get("/map/points")
def points(of: OpenMap) -> Response:
    """[N, 2] places, as float32."""
    return _bytes(of, of.xy, {"examples": len(of.ids), "members": of.members})


@router.get("/map/ids")
def ids(of: OpenMap) -> Response:
    """[N] ids, 16 bytes each."""
    return _bytes(of, np.frombuffer(bytes.fromhex("".join(of.ids.to_pylist())), np.uint8), {})


@router.get("/map/shade")
def shaded(store: OpenStore, of: OpenMap, shade_by: Shading = "source", selection: Text = "") -> Response:
    """[N] numbers of labels, as bytes; 255 where nothing is known."""
    made = shade(store, of, shade_by, selection or None)
    head = {name: value for name, value in vars(made).items() if name != "codes"}
    return _bytes(of, made.codes, head | {"labels": [visible(label) for label in made.labels]})


@router.get("/map/sources")
def sources(of: OpenMap) -> dict[str, int]:
    """{source: examples} of the map, the largest first."""
    counted = of.sources.value_counts()
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


@router.get("/map/passing")
def passing(store: OpenStore, of: OpenMap, wanted: Annotated[Wanted, Query()]) -> Response:
    """[N] bytes: 1 for an example that all filters let pass."""
    inside = np.ones(len(of.ids), np.uint8)
    if narrow := wanted.filter():
        inside &= _mask(of, list(ids_passing(store, narrow, "where")))
    if wanted.words.strip():
        inside &= _mask(of, holding(store, wanted.words))
    return _bytes(of, inside, {"passing": int(inside.sum())})


@router.get("/map/rows")
def rows(store: OpenStore, ids: Annotated[str, Query(max_length=MOST_ROWS * 33)]) -> list[dict[str, Any]]:
    """The first words of some examples, by their ids between commas; those that left the store are left out."""
    wanted = [one for one in ids.split(",") if one][:MOST_ROWS]
    texts, known = examples.get_messages(store, wanted), examples.sources_of(store, wanted)
    return [
        {
            "id": one,
            "source": excerpt(known[one].source, WORDS),
            "chars": chats.chars(texts[one]),
            "turns": [
                {"role": turn["role"], "words": excerpt(chats.turn_text(turn), WORDS)} for turn in texts[one][:3]
            ],
        }
        for one in wanted
        if one in texts and one in known
    ]


@router.post("/map/selection")
def save(store: OpenStore, drawn: Drawn) -> dict[str, Any]:
    """Record rows as a selection under a name; the one thing that this page writes."""
    made = select_by_hand(store, drawn.name, drawn.ids, parse_qs(drawn.view))
    return {"version": made.version, "name": made.name, "examples": made.examples}


def _mask(of: Map, ids: Sequence[str]) -> U8:
    mask = np.zeros(len(of.ids), np.uint8)
    mask[places_of(of, ids)] = 1
    return mask


def _bytes(of: Map, numbers: NDArray[Any], head: Mapping[str, Any]) -> Response:
    """Numbers behind their head, which is as long as makes floats begin at a multiple of four."""
    told = json.dumps({"key": of.key, **head}).encode()
    told += b" " * (-len(told) % 4)
    body = len(told).to_bytes(4, "little") + told + np.ascontiguousarray(numbers).tobytes()
    return Response(body, media_type="application/octet-stream")
