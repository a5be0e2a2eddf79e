"""What methods look at may lie in memory or on the disk: they choose the same."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from gradsift.datastore import free, runs
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines import memory
from gradsift.pipelines.features.gather import evidence
from gradsift.pipelines.methods.memory import Sizes
from gradsift.pipelines.methods.registry import UNSTATED, methods, rules, scores, split_options
from gradsift.pipelines.methods.room import make_room_for_semdedup
from gradsift.pipelines.model.work import Work
from gradsift.pipelines.recipe import Select, parse_recipe
from gradsift.pipelines.runs import reselect
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.last import material_of
from gradsift.pipelines.select import select as select_stage
from gradsift.pipelines.select.need import check, planned
from gradsift.scorers import rows as rows_module

LOOK_AT_ROWS = ["tagcos", "gip", "gio", "gio_exact", "gio_knn", "tsds", "tive", "kmq", "facility_location", "k_center"]


@pytest.fixture
def seen(copy):
    """Evidence of the finished run's one target, of a budget of so many bytes for rows."""
    last = runs.last_run(copy)
    work = Work(copy, parse_recipe(last.recipes.resolved))

    def of(room):
        made = evidence(work, material_of(copy, last), "sql")
        made.room = room
        return made

    return of


@pytest.mark.parametrize("represent", ["gradients", "plain", "embedding"])
@pytest.mark.parametrize("unit", [False, True])
def test_rows_on_the_disk_are_those_in_memory_to_the_bit(seen, represent, unit):
    e = seen(0)
    mapped, held = e.rows(represent, unit=unit), seen(1 << 30).rows(represent, unit=unit)
    total = None
    for pair, weight in e.weighted(represent):
        for positions, block in e.blocks(pair, represent):
            part = rows_module.unit_rows(block.signal("embedding")) if represent == "embedding" else block.unit()
            total = np.zeros((len(e.ids), part.shape[1]), np.float32) if total is None else total
            total[positions] += np.float32(weight) * part
    expected = rows_module.unit_rows(total) if unit else total
    np.testing.assert_array_equal(held.array(), expected)
    np.testing.assert_array_equal(mapped.array(), expected)
    some = np.array([5, 3, 3, 17])
    np.testing.assert_array_equal(mapped.read(some), expected[some])


@pytest.mark.parametrize("name", LOOK_AT_ROWS)
def test_a_method_chooses_the_same_from_rows_on_the_disk(seen, name, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", 32)  # several blocks of this pool
    method = methods()[name]
    of_score, of_rule = split_options(method.score, method.rule, method.options)
    more = {"omp": {"clusters": 4}, "kmeans_quota": {"clusters": 4}, "gio": {"quantise": of_rule.get("quantise", 12)}}
    found = []
    for room in (0, 1 << 30):
        e = seen(room)
        values = scores()[method.score].run(e, **of_score)
        choice = rules()[method.rule].run(e, values, 20, **{**of_rule, **more.get(method.rule, {})})
        found.append((choice.order.tolist(), {k: v.tolist() for k, v in choice.columns.items()}))
    assert found[0] == found[1]
    assert len(found[0][0]) >= 20


def test_every_rule_that_looks_at_rows_is_held_against_both():
    watched = {methods()[name].rule for name in LOOK_AT_ROWS}
    streams = {"quadrants", "s2l"}  # of signals
    alone = [m for m in methods().values() if rules()[m.rule].between is None]  # else it looks by others' rules
    named = {m.rule for m in alone if rules()[m.rule].needs({"represent": "plain", **m.options})}
    assert named - streams <= watched


# --- what is declared, and what is refused ---------------------------------------------------------------------------


def test_every_score_and_rule_of_this_project_says_what_it_holds():
    for part in [*scores().values(), *rules().values()]:
        assert part.memory is not UNSTATED, part.name


def test_a_method_that_does_not_fit_is_refused_before_it_starts(seen, monkeypatch):
    e = seen(0)
    e.memory = 1 << 20
    monkeypatch.setattr(select_stage, "scored", lambda *_: pytest.fail("it started"))
    with pytest.raises(InputError) as refused:
        select_stage.choose(e, Select(method="tsds", examples=10))
    for part in ("method 'tsds': needs", "MiB for", "`memory` allows 1.0 MiB", "fewer `neighbours`", "docs/memory.md"):
        assert part in str(refused.value)


def test_what_a_method_leaves_is_room_for_rows(seen):
    e = seen(0)
    e.memory = 1 << 30
    select_stage.choose(e, Select(method="k_center", examples=10))
    assert 0 < e.room < 1 << 30


def test_the_command_line_takes_an_amount(copy):
    with pytest.raises(InputError, match=r"method 'tagcos': needs .* `memory` allows 500 KiB"):
        reselect.reselect(copy, {"method": "tagcos", "examples": 9}, memory="512000")
    with pytest.raises(InputError, match=r"method 'less': needs .* `memory` allows 1 KiB"):
        reselect.score(copy, {"method": "less"}, memory="1024")
    enough = reselect.reselect(copy, {"method": "less", "examples": 9}, memory="1GiB")
    assert enough[0].examples == 9


def test_a_run_is_refused_before_gradients(recipe_data, tmp_path):
    data = {**recipe_data, "memory": "10KiB"}
    with Store(tmp_path / "store") as store:
        with pytest.raises(InputError, match=r"method 'less': needs .* `memory` allows 10 KiB"):
            curate(parse_recipe(data), store)
        assert store.catalog.one("SELECT count(*) AS n FROM checkpoint")["n"] == 0


def test_a_plan_says_what_methods_will_hold(recipe_data):
    recipe = parse_recipe({**recipe_data, "select": {"method": "tagcos", "examples": 12}, "memory": "2GiB"})
    small = planned(recipe, 1000, {"sql": (20, 1)})["method 'tagcos'"][0]
    large = planned(recipe, 100_000, {"sql": (20, 1)})["method 'tagcos'"][0]
    assert recipe.memory == 2 << 30
    assert 20 * small < large


@pytest.mark.parametrize(("text", "size"), [
    ("4GiB", 4 << 30), ("500MB", 500_000_000), ("1.5 GiB", 3 << 29), (1024, 1024), ("64kib", 65536), ("7b", 7),
])  # fmt: skip
def test_sizes_are_read_and_said(text, size):
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["much", "4 apples", "-1GiB", "0", "", "1e9", "9" * 400])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match="size"):
        memory.parse_size(text)


GROUPS = {  # of version 2 and 1: folder of the root, its names, how /proc/self/cgroup says it
    2: ("", "memory.max", "memory.current", "inactive_file", "0::{}\n"),
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "5:pids:/no\n4:memory:{}\n"),
}


@pytest.fixture
def grouped(tmp_path, monkeypatch):
    """A function that puts this process into control groups: {path: (limit, held, of that pages of files)} MiB."""

    def put(version, path, groups):
        folder, *names, line = GROUPS[version]
        for group, (limit, held, of_files) in groups.items():
            place = tmp_path / "groups" / folder / group.strip("/")
            place.mkdir(parents=True, exist_ok=True)
            (place / names[0]).write_text(f"{limit if limit == 'max' else limit << 20}\n")
            (place / names[1]).write_text(f"{held << 20}\n")
            (place / "memory.stat").write_text(f"anon 5\n{names[2]} {of_files << 20}\n")
        (tmp_path / "own").write_text(line.format(path))
        monkeypatch.setattr(free, "GROUPS", tmp_path / "groups")
        monkeypatch.setattr(free, "OWN", tmp_path / "own")
        return free.free_bytes() / (1 << 20)

    return put


@pytest.mark.parametrize("version", GROUPS)
@pytest.mark.parametrize(("path", "groups", "left"), [
    ("/", {"/": (16, 14, 0)}, 2),  # what is held is not free
    ("/", {"/": (16, 14, 9)}, 11),  # pages of files that nobody used lately are
    ("/", {"/": (16, 17, 0)}, 0),
    ("/a/b", {"/a": ("max", 14, 0), "/a/b": (16, 4, 0)}, 12),  # the process's own group
    ("/a/b", {"/a": (16, 14, 0), "/a/b": (16, 4, 0)}, 2),  # one above it
    ("/a/b", {"/a": (16, 4, 0), "/other": (16, 14, 0)}, 12),  # not another one
    ("/of/the/host", {"/": (16, 4, 0)}, 12),  # in a container
])  # fmt: skip
def test_free_memory_is_what_the_container_has_left(grouped, version, path, groups, left):
    assert grouped(version, path, groups) == left
    assert memory.default_budget() == int(0.6 * (left << 20))


def test_without_a_limit_free_memory_is_the_machines(grouped):
    assert grouped(2, "/", {"/": ("max", 14, 0)}) * (1 << 20) == pytest.approx(free.available(), rel=0.2)
    assert memory.in_words(3 << 29) == "1.5 GiB"


@pytest.mark.parametrize("share", [0.05, 1.0])
@pytest.mark.parametrize("rule", ["top_k", "quota", "softmax", "window", "stratified", "ccs", "random"])
def test_rules_of_scores_take_no_more_than_they_declare(rule, share):
    """Above the ids that are there. Sorting by ids takes an array of them."""
    size, rng = 20_000, np.random.default_rng(0)
    sources = [f"source {k % 9}" for k in range(size)]
    e = SimpleNamespace(ids=[f"{k:032x}" for k in range(size)], seed=0, sources=lambda: sources)
    scores, chosen = rng.normal(size=size), int(share * size)
    options = {"by": "source"} if rule == "quota" else {}
    declared = rules()[rule].memory.need(Sizes(size, 0, 0, 1, chosen), options)
    tracemalloc.start()
    rules()[rule].run(e, scores, chosen, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= declared


def test_semantic_duplicates_are_refused_like_a_method(seen):
    e = seen(0)
    e.memory = 1 << 18
    with pytest.raises(InputError, match=r"needs .* fewer `clusters`"):
        make_room_for_semdedup(e, "plain", 0)
    e.memory = 1 << 30
    make_room_for_semdedup(e, "plain", 0)
    assert 0 < e.room < 1 << 30


@pytest.mark.parametrize("method", ["less", "tagcos", "rds", "k_center", "trak", "gio", "s2l"])
def test_what_is_planned_is_what_is_asked_for(seen, recipe_data, method):
    """From the recipe alone, before gradients, and from the store's rows afterwards."""
    e = seen(0)
    e.memory = 4 << 30
    select = {"method": method, "examples": 12}
    select_stage.choose(e, Select(**select))
    recipe = parse_recipe({**recipe_data, "select": select})
    target = {"sql": (len(e.target.example_ids), len(set(e.target.subtasks)))}
    need, sizes, _ = planned(recipe, len(e.ids), target)[f"method {method!r}"]
    assert sizes.dims == {"less": 512, "tagcos": 512, "trak": 512, "gio": 512, "s2l": 0}.get(method, sizes.dims)
    assert sizes.dims > 0 or method == "s2l"
    assert need == e.memory - e.room


def test_parts_arms_and_screening_are_planned_too(recipe_data):
    recipe = parse_recipe({
        **recipe_data,
        "dedup": {"semantic": {"represent": "gradients"}},
        "validate": {**recipe_data["validate"], "arms": ["tagcos", "random_tokens"]},
        "mix": {"examples": 20, "parts": [
            {"name": "skill", "target": "sql", "share": 0.5, "select": {"method": "gio"}},
            {"name": "some", "target": "sql", "share": 0.3, "sources": ["sql"]},
            {"name": "rest", "share": 0.2},
        ]},
    })  # fmt: skip
    wanted = planned(recipe, 1000, {"sql": (24, 2)})
    assert set(wanted) == {"method 'less'", "arm 'tagcos'", "mix, part 'skill', method 'gio'", "`dedup.semantic`"}
    with pytest.raises(InputError, match=r"arm 'tagcos': needs .* 1,000 examples of 512 dims and 24 target rows"):
        check(parse_recipe({**recipe_data, "select": {"method": "random", "examples": 5}, "memory": "2MiB",
                            "validate": {**recipe_data["validate"], "arms": ["tagcos"]}}), 1000, {"sql": (24, 2)})  # fmt: skip
