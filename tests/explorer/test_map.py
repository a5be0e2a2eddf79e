"""The map in a browser: points, legend, filters, lasso, keys, a selection that is saved, links that show the same."""

import re
import shutil

import browser
import pytest
from browser import HOSTILE

from gradsift.datastore import examples, selections
from gradsift.datastore.errors import InputError
from gradsift.pipelines.query.map import open_map
from gradsift.pipelines.query.shades import shade


def opened(page, url):
    """Go there, and wait until points are drawn and rows are listed."""
    page.goto(url)
    page.wait_for_selector("#rows > li, #problem:not([hidden])")
    return page


def listed(page):
    """The rows of the list, once it is that of what is shown."""
    page.wait_for_selector("#rows:not([aria-busy])")
    return page.locator("#rows a.id").all_inner_texts()


def count(page):
    """How many are shown."""
    return int(re.match(r"([\d,]+) of", page.inner_text("#count"))[1].replace(",", ""))


def shown(page, n):
    """Wait until so many are shown."""
    page.wait_for_selector(f"#count:has-text('{n:,} of')")
    return True


def lasso(page, corners):
    """Draw with the pointer, corners as shares of the canvas."""
    box = page.locator("#points").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


ALL = ((0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99))
LEFT = ((0.01, 0.01), (0.5, 0.01), (0.5, 0.99), (0.01, 0.99))


@pytest.fixture
def of(explored):
    return open_map(explored[1])


@pytest.fixture
def mapped(page, address):
    return opened(page, f"{address}/map")


def test_it_opens_with_all_points_coloured_by_source(mapped, of):
    assert count(mapped) == len(of.ids)
    assert mapped.title() == "Map · gradsift"
    assert mapped.evaluate("performance.getEntriesByName('drawn').length") == 1
    drawn = set(mapped.evaluate(
        "() => { const c = document.getElementById('points'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data, s = new Set(); for (let k = 0; k < d.length; k += 4) s.add((d[k] << 16) + (d[k+1] << 8) + d[k+2]);"
        " return [...s]; }"))  # fmt: skip
    assert 0xFFFFFF in drawn
    assert len(drawn) > 100
    sources = mapped.locator("#legend .name").all_inner_texts()
    assert sorted(sources) == sorted(set(of.sources.to_pylist()))


def test_the_legend_shows_one_kind_alone_then_adds(mapped, of, address):
    store_counts = {one["name"]: one["n"] for one in mapped.locator("#legend button").evaluate_all(
        "all => all.map(one => ({name: one.querySelector('.name').textContent, n: +one.querySelector('.n').textContent.replace(',', '')}))")}  # fmt: skip
    first, second = list(store_counts)[:2]
    mapped.get_by_role("button", name=first, exact=False).first.click()
    assert shown(mapped, store_counts[first])
    mapped.get_by_role("button", name=second, exact=False).first.click()
    assert shown(mapped, store_counts[first] + store_counts[second])
    link = mapped.url
    mapped.go_back()
    assert shown(mapped, store_counts[first])
    opened(mapped, link)
    assert shown(mapped, store_counts[first] + store_counts[second])


@pytest.mark.parametrize("by", ["loss", "quadrant", "selected", "score"])
def test_it_is_coloured_by(by, mapped, explored, of):
    mapped.get_by_label("Coloured by").select_option(by)
    made = shade(explored[1], of, by, "small-sql@1")
    mapped.wait_for_selector(f"#legend .name:text-is('{made.labels[0]}')")
    mapped.wait_for_url(f"**shade_by={by}*")
    counts = mapped.locator("#legend .n").all_inner_texts()
    assert [int(n.replace(",", "")) for n in counts][: len(made.counts)] == list(made.counts)
    assert mapped.locator("#of").is_visible() == (by in ("selected", "score"))
    assert not mapped.locator("#problem").is_visible()
    assert mapped.locator("#legend small").all_inner_texts() == list(made.meanings)
    assert bool(made.meanings) == (by == "quadrant")


def test_it_is_laid_out_by_embeddings_as_well(mapped, of):
    mapped.get_by_label("Laid out by").select_option("embedding")
    mapped.wait_for_url("**by=embedding*")
    assert shown(mapped, len(of.ids))


def test_filters_narrow_and_say_what_lets_none_pass(mapped, explored, of):
    source, n = next(iter(examples.source_counts(explored[1], examples.get_dataset(explored[1], of.pool)).items()))
    mapped.locator("#filters summary").click()
    mapped.wait_for_selector("select[name=source] option", state="attached")
    mapped.locator("select[name=source]").select_option(source)
    mapped.get_by_role("button", name="Filter").click()
    assert shown(mapped, n)
    mapped.reload()
    assert shown(mapped, n)
    assert mapped.locator("select[name=source]").evaluate("one => one.selectedOptions.length") == 1
    mapped.locator("input[name=where]").fill("chars > 100000")
    mapped.get_by_role("button", name="Filter").click()
    mapped.wait_for_selector("#problem:not([hidden])")
    assert "No example passes" in mapped.inner_text("#problem")
    assert shown(mapped, 0)
    mapped.get_by_role("button", name="Clear", exact=True).click()
    assert shown(mapped, len(of.ids))


def test_a_filter_that_means_nothing_is_told_in_a_line_and_hides_no_point(mapped, of, address):
    mapped.locator("#filters summary").click()
    for chars, where, told in (("200..", "", None), ("", "sorce = 'sql'", "where: no such column: sorce; did you mean `source`?"),
                               ("", "nope > 1", "where: no such column: nope")):  # fmt: skip
        mapped.locator("input[name=chars]").fill(chars)
        mapped.locator("input[name=where]").fill(where)
        mapped.get_by_role("button", name="Filter").click()
        if told is None:
            mapped.wait_for_selector(f"#count:not(:has-text('{len(of.ids):,} of'))")
            some = count(mapped)
        else:
            mapped.wait_for_selector(f"#problem > p:text-is('{told}')")
        assert count(mapped) == some < len(of.ids)
        assert mapped.get_by_role("button", name="Save these").is_disabled() == bool(told)
    assert not mapped.get_by_text("functions: ").is_visible()
    mapped.locator("#problem summary").click()
    assert mapped.get_by_text("functions: ").is_visible()
    opened(mapped, f"{address}/map?where=nope")
    assert shown(mapped, len(of.ids))
    assert mapped.locator("#problem").bounding_box()["height"] < 90
    mapped.wrong.clear()  # the console tells of each 400


def test_a_shade_that_a_selection_did_not_record_is_not_offered(mapped, of, address):
    offered = mapped.locator("select[name=shade_by] option").evaluate_all("all => all.map(one => one.value)")
    assert offered == ["source", "loss", "quadrant", "selected", "score"]
    opened(mapped, f"{address}/map?shade_by=cluster&selection=small-sql%401&hide=0")
    told = "small-sql@1 recorded no cluster of its pool; shade by another, or name another selection. The map is coloured by source."
    assert mapped.inner_text("#problem") == told
    assert shown(mapped, len(of.ids))
    assert mapped.get_by_label("Coloured by").input_value() == "source"
    assert set(mapped.locator("#legend .name").all_inner_texts()) == set(of.sources.to_pylist())
    assert len(listed(mapped)) == 20
    mapped.wait_for_url(re.compile(r"/map$"))
    mapped.wrong.clear()  # the console tells of the 400


def test_words_narrow_the_map(mapped, of):
    mapped.locator("#filters summary").click()
    mapped.locator("input[name=words]").fill("SELECT name")
    mapped.keyboard.press("Enter")
    mapped.wait_for_url("**words=SELECT+name*")
    mapped.wait_for_selector(f"#count:not(:has-text('{len(of.ids):,} of'))")
    assert 0 < count(mapped) < len(of.ids)


def test_a_lasso_gives_rows_that_a_link_gives_again(mapped, of):
    mapped.keyboard.down("Shift")
    lasso(mapped, LEFT)
    mapped.keyboard.up("Shift")
    mapped.wait_for_url("**lasso=*")
    inside = count(mapped)
    assert 0 < inside < len(of.ids)
    rows = listed(mapped)
    mapped.reload()
    mapped.wait_for_selector("#rows > li")
    assert count(mapped) == inside
    assert listed(mapped) == rows
    mapped.get_by_role("button", name="Clear lasso").click()
    assert shown(mapped, len(of.ids))
    mapped.go_back()
    assert shown(mapped, inside)


def test_rows_are_listed_page_after_page_and_lead_to_their_own(mapped, of):
    first = mapped.locator("#rows a.id").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert first == [f"/row/{name}" for name in of.ids.to_pylist()[:20]]
    mapped.get_by_role("button", name="Next").click()
    mapped.wait_for_selector(f"#rows a[href='/row/{of.ids[20].as_py()}']")
    assert len(listed(mapped)) == 20


def test_a_point_shows_its_first_words_and_leads_to_its_row(mapped, of, explored):
    x, y = point(mapped, of, 5)
    mapped.mouse.move(x - 1, y)
    mapped.mouse.move(x, y)
    mapped.wait_for_selector("#tip:not([hidden])")
    near = mapped.locator("#tip .id").inner_text()
    assert any(name.startswith(near) for name in of.ids.to_pylist())
    mapped.mouse.click(x, y)
    mapped.wait_for_url(f"**/row/{near}*")
    mapped.wrong.clear()


def point(page, of, k):
    """Where a point is on the screen, in the view of all: 20 pixels are left around it, 60 above."""
    box = page.locator("#points").bounding_box()
    low, high = of.xy.min(axis=0), of.xy.max(axis=0)
    scale = min((box["width"] - 40) / (high - low)[0], (box["height"] - 80) / (high - low)[1])
    x, y = (of.xy[k] - (low + high) / 2) * scale
    return float(box["x"] + box["width"] / 2 + x), float(box["y"] + 60 + (box["height"] - 80) / 2 - y)


@pytest.mark.parametrize("size", [(1280, 720), (1600, 600), (420, 800)])
def test_all_points_lie_inside_and_none_below_the_buttons(chromium, address, size):
    with browser.watched(chromium, address, viewport=dict(zip(("width", "height"), size, strict=True))) as page:
        opened(page, f"{address}/map")
        page.wait_for_function("performance.getEntriesByName('drawn').length")
        edges = page.evaluate(
            "() => { const c = document.getElementById('points'), w = c.width, h = c.height, at = [w, h, 0, 0];"
            " const all = new Uint32Array(c.getContext('2d').getImageData(0, 0, w, h).data.buffer);"
            " for (let k = 0; k < w * h; k++) if (all[k] !== all[0]) {"
            " const x = k % w, y = (k - x) / w; at[0] = Math.min(at[0], x); at[1] = Math.min(at[1], y);"
            " at[2] = Math.max(at[2], x); at[3] = Math.max(at[3], y); }"
            " return [at[0], at[1], w - 1 - at[2], h - 1 - at[3]]; }")  # fmt: skip
        tools, box = page.locator(".tools").bounding_box(), page.locator("#points").bounding_box()
        assert edges[1] >= tools["y"] + tools["height"] - box["y"]
        assert min(edges) >= 8
        assert min(edges) < 24, "and they fill the plane"


def test_it_is_used_by_keys_alone(mapped, of):
    mapped.locator("#points").focus()
    for key in ("+", "+", "ArrowLeft", "ArrowUp", "-"):
        mapped.keyboard.press(key)
    mapped.wait_for_url("**view=*")
    before = mapped.url
    mapped.reload()
    mapped.wait_for_selector("#rows > li")
    assert mapped.url == before
    mapped.locator("#points").focus()
    mapped.keyboard.press("0")
    mapped.wait_for_url(re.compile(r"/map$"))
    mapped.keyboard.press("l")
    assert mapped.locator("#lasso").get_attribute("aria-pressed") == "true"
    mapped.keyboard.press("Escape")
    assert mapped.locator("#lasso").get_attribute("aria-pressed") == "false"
    mapped.locator("#legend button").first.focus()
    mapped.keyboard.press("Enter")
    mapped.wait_for_url("**hide=*")
    assert count(mapped) < len(of.ids)


def test_the_wheel_zooms_about_the_pointer(mapped):
    box = mapped.locator("#points").bounding_box()
    mapped.mouse.move(box["x"] + 100, box["y"] + 100)
    mapped.mouse.wheel(0, -400)
    mapped.wait_for_url("**view=*")
    x, y, zoom = map(float, re.search(r"view=([^&]+)", mapped.url.replace("%2C", ","))[1].split(","))
    assert zoom > 1.5
    assert x < 0 < y  # the middle moved towards the corner


def test_what_is_shown_is_saved_as_a_selection(chromium, copy):
    with browser.served(copy) as address, browser.watched(chromium, address) as page:
        opened(page, f"{address}/map?shade_by=quadrant")
        page.get_by_role("button", name="Lasso").click()
        lasso(page, LEFT)
        page.wait_for_url("**lasso=*")
        inside = count(page)
        page.get_by_label("Name of the selection").fill("by-eye")
        page.get_by_role("button", name="Save these").click()
        page.wait_for_selector("#saved:not([hidden])")
        assert f"Saved as by-eye@1, {inside:,} examples" in page.inner_text("#saved")
        made = selections.get(copy, "by-eye")
        drawn = selections.spec_of(copy, made)["drawn"]
        assert (len(made.example_ids), made.method, set(drawn)) == (inside, "by hand", {"shade_by", "lasso"})
        page.get_by_label("Coloured by").select_option("selected")
        page.locator("#of select").select_option("by-eye@1")
        page.wait_for_selector("#legend :text('in by-eye@1')")
        page.get_by_label("Coloured by").select_option("score")
        page.wait_for_url("**selection=small-sql%401*")
        known = page.locator("#of option").evaluate_all("all => all.filter(one => !one.disabled).map(one => one.value)")
        assert known == ["small-sql@1"], "by-eye@1 has no scores"
        page.get_by_label("Name of the selection").fill("small-sql")
        page.get_by_role("button", name="Save these").click()
        page.wait_for_selector("#problem:not([hidden])")
        assert "is the name of what a recipe or a method made" in page.inner_text("#problem")
        page.wrong.clear()


def test_a_predicate_in_a_link_of_another_site_waits_for_the_button(mapped, address, of):
    asked = []
    mapped.on("request", lambda request: asked.append(request.url) if "/map/passing" in request.url else None)
    path = f"{address}/map?chars=1..&where=chars+%3E+1000000+or+source%3D%27sql%27"
    mapped.goto("about:blank")
    mapped.set_content(f'<a href="{path.replace("&", "&amp;")}">Look</a>')
    mapped.get_by_role("link").click()
    mapped.wait_for_selector("#rows li")
    assert mapped.get_by_label("Where").input_value() == "chars > 1000000 or source='sql'"
    assert "which was not asked" in mapped.inner_text("#problem")
    assert count(mapped) == len(of.ids)
    assert not any("where" in url for url in asked)
    mapped.get_by_role("button", name="Filter", exact=True).click()
    mapped.wait_for_selector("#problem", state="hidden")
    mapped.wait_for_selector(f"#count:not(:has-text('{len(of.ids):,} of'))")
    assert 0 < count(mapped) < len(of.ids)
    assert "where" in asked[-1]


def test_hostile_rows_do_nothing_on_the_map(chromium, copy, monkeypatch):
    texts = list(HOSTILE.values())

    def harmful(_store, ids):
        return {name: [{"role": "user", "content": texts[k % len(texts)]}] for k, name in enumerate(ids)}

    monkeypatch.setattr(examples, "get_messages", harmful)
    shutil.rmtree(copy.root / "kept", ignore_errors=True)  # which has the sources as they were
    with copy.catalog.write() as db:
        db.execute("UPDATE example SET source='<b>x</b>' || char(8238)")
    with browser.served(copy) as address, browser.watched(chromium, address) as page:
        opened(page, f"{address}/map")
        assert page.title() == "Map · gradsift"
        assert page.locator("#rows script, #rows img, #rows b, #legend b").count() == 0
        text = page.locator("#rows").inner_text()
        for shown_text in (
            "<script>document.title",
            "‹U+202E› evil ‹U+2066›",
            "␛[31m red ␇",
            "{{ 7 * 7 }}",
            "<b>x</b>",
        ):
            assert shown_text in text
        assert len(text) < 20_000
        assert "‹U+202E›" in page.locator("#legend").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_has_it_all(chromium, address, scheme):
    narrow = {"viewport": {"width": 420, "height": 800}, "color_scheme": scheme}
    with browser.watched(chromium, address, **narrow) as page:
        opened(page, f"{address}/map")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for name in ("Coloured by", "Name of the selection"):
            box = page.get_by_label(name).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 420


def test_rows_without_places_are_listed_filtered_and_saved(chromium, copy, monkeypatch):
    def none(*_):
        raise InputError("the last run kept no rows")

    monkeypatch.setattr("gradsift.pipelines.query.map._rows", none)
    with browser.served(copy) as address, browser.watched(chromium, address) as page:
        opened(page, f"{address}/map?shade_by=selected&selection=small-sql%401")
        assert "have no places on a map" in page.inner_text("aside")
        assert not page.locator("#points").is_visible()
        chosen = selections.get(copy, "small-sql").example_ids
        page.wait_for_selector("#legend :text('in small-sql@1')")
        page.locator("#legend button").first.click()
        assert shown(page, len(chosen))
        assert set(listed(page)) <= {name[:8] for name in chosen}
        page.get_by_label("Name of the selection").fill("by-eye")
        page.get_by_role("button", name="Save these").click()
        page.wait_for_selector("#saved:not([hidden])")
        assert sorted(selections.get(copy, "by-eye").example_ids) == sorted(chosen)
        page.locator("#filters summary").click()
        page.locator("input[name=chars]").fill("..60")
        page.get_by_role("button", name="Filter").click()
        page.wait_for_selector(f"#count:not(:has-text('{len(chosen):,} of'))")


def test_a_store_without_rows_says_what_to_do(chromium, store):
    with browser.served(store) as address, browser.watched(chromium, address) as page:
        page.goto(f"{address}/map")
        assert "no rows to lay out" in page.inner_text("main")
