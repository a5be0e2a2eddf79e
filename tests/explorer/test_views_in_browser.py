"""The views as they are used: from a row to its neighbours and back, on a narrow screen, by keyboard, with hostile rows."""

import re

import hostile
import pytest
from browser import served, watched

from gradsift.datastore import selections
from gradsift.datastore.store import Store

NARROW = {"viewport": {"width": 420, "height": 900}}


@pytest.fixture(scope="module")
def store(browsed):
    with Store(browsed, create=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def home(store):
    with served(store) as address:
        yield address


@pytest.fixture
def view(chromium, home):
    """A page on which nothing may go wrong: no error in the console, no request to another host."""
    with watched(chromium, home) as made:
        yield made


@pytest.fixture(scope="module")
def chosen(store):
    return selections.get(store, "small-sql").example_ids


def fits(page):
    """Whether nothing stands out of the page's width."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_from_a_row_to_a_neighbour_its_neighbours_and_back(view, home, chosen):
    view.goto(f"{home}/row/{chosen[0]}")
    view.get_by_role("link", name="Neighbours").click()
    view.wait_for_url("**/neighbours")
    columns = view.locator(".spaces > section")
    assert columns.locator("h2").all_inner_texts() == ["Gradients", "Embedding", "Words (BM25)"]
    nearest = columns.first.locator("ol.near > li a.id").first
    name = nearest.inner_text()
    nearest.click()
    view.wait_for_url(f"**/row/{name}*")
    assert view.locator("h1 code").inner_text().startswith(name)
    view.get_by_role("link", name="Neighbours").click()
    assert chosen[0][:8] in view.locator(".spaces").inner_text(), "it is among its neighbour's"
    view.go_back()
    view.go_back()
    assert view.url == f"{home}/row/{chosen[0]}/neighbours"
    view.get_by_role("link", name="most opposed").click()
    assert view.get_by_role("link", name="most opposed").get_attribute("aria-current") == "true"
    assert name not in view.locator(".spaces > section").first.inner_text()


def test_tokens_change_their_shade_and_what_is_struck_out(view, home, store):
    whole = selections.get(store, "small-qtuning-sql")
    name, mask = next((i, mask) for i, mask in selections.masks(store, whole).items() if not all(mask))
    view.goto(f"{home}/row/{name}/tokens")
    tokens = view.locator(".tokens .token")
    assert tokens.count() == len(mask)
    struck = view.locator(".tokens .pruned")
    assert struck.count() == mask.count(False)
    assert "line-through" in struck.first.evaluate("one => getComputedStyle(one).textDecorationLine")
    shades = view.locator(".legend .token").evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len(set(shades)) == 10, "each shade is told from the others"
    classes = "all => all.map(one => one.className)"
    before = tokens.evaluate_all(classes)
    view.get_by_role("link", name="entropy").click()
    view.wait_for_url("**by=entropy*")
    assert tokens.evaluate_all(classes) != before
    view.get_by_role("link", name="none").click()
    view.wait_for_url("**mask=")
    assert struck.count() == 0
    view.reload()
    assert struck.count() == 0
    view.get_by_text("The figures").click()
    assert view.locator("details table tbody tr").count() == len(mask)


def test_two_selections_are_picked_and_compared(view, home, chosen):
    view.goto(f"{home}/selections")
    view.get_by_label("small-qtuning-sql@1 as a").check()
    view.get_by_label("small-random-sql@1 as b").check()
    view.get_by_role("button", name="Compare a with b").click()
    view.wait_for_url(re.compile("/compare.*a=small-qtuning-sql%401"))
    assert view.get_by_label("b", exact=True).input_value() == "small-random-sql@1"
    assert view.get_by_text("in both").first.is_visible()
    view.get_by_label("a", exact=True).select_option("small-sql@1")
    view.get_by_role("button", name="Compare").click()
    view.wait_for_url(re.compile("a=small-sql%401"))
    assert view.locator(".overlap").inner_text().count("small-") == 2
    view.locator("a.id").first.click()
    view.wait_for_url("**/row/*")
    view.get_by_role("link", name="Lineage").click()
    view.wait_for_url("**/lineage/*")
    assert view.get_by_role("heading", name="Was chosen by").is_visible()
    view.locator(".way a code").first.click()
    view.wait_for_url(re.compile("lineage.file="))
    assert view.locator("table tbody tr").count() > 50


def test_a_selection_is_seen_on_the_map(view, home, chosen):
    view.goto(f"{home}/selections/small-sql")
    assert view.locator("tbody a.id").all_inner_texts() == [name[:8] for name in chosen]
    view.get_by_role("link", name="On the map").click()
    view.wait_for_url(re.compile("/map.shade_by=selected&selection=small-sql%401"))
    assert view.get_by_label("Coloured by").input_value() == "selected"


def test_marks_lead_to_the_row_and_its_twin(view, home):
    view.goto(f"{home}/marks")
    pair = view.locator("article.twins").first
    assert pair.locator("mark").count() >= 1
    names = pair.locator("a.id").all_inner_texts()
    pair.locator("a.id").first.click()
    view.wait_for_url(f"**/row/{names[0]}*")
    assert f"left out for {names[1]}" in view.locator("main").inner_text()
    view.go_back()
    if view.get_by_role("link", name="After").count():
        view.get_by_role("link", name="After").click()
        assert names[0] not in view.locator("main").inner_text()


def test_a_report_opens_in_its_sandbox(view, home):
    view.goto(f"{home}/runs")
    view.get_by_role("link", name="Report").click()
    view.wait_for_url("**/runs/1/report")
    assert view.locator("h1").inner_text() == "small"
    assert view.locator("svg").count() > 3
    assert view.evaluate("self.origin") == "null"
    assert "rgb(255, 255, 255)" in view.locator("body").evaluate("one => getComputedStyle(one).backgroundColor"), (
        "its style"
    )


@pytest.mark.parametrize("name", hostile.CASES)
def test_hostile_rows_do_nothing_and_stay_in_their_place(chromium, home, name):
    with watched(chromium, home, **NARROW) as page:
        for path in ("", "/tokens", "/neighbours"):
            page.goto(f"{home}/row/{hostile.IDS[name]}{path}")
            assert "gradsift" in page.title()
            assert page.locator("main script, main img, main link").count() == 0
            assert fits(page), path
        page.goto(f"{home}/lineage/{hostile.IDS[name]}")
        assert page.locator("main script, main img, main link").count() == 0
        assert fits(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_a_narrow_screen_and_is_readable(chromium, home, store, chosen, scheme):
    """Text against its ground by WCAG's 4.5 : 1, shades of tokens and those that are struck out included."""
    pruned = next(iter(selections.masks(store, selections.get(store, "small-qtuning-sql"))))
    with watched(chromium, home, color_scheme=scheme, **NARROW) as page:
        for path in (
            f"/row/{chosen[0]}", f"/row/{chosen[0]}/tokens", f"/row/{chosen[0]}/neighbours", f"/lineage/{chosen[0]}",
            f"/row/{pruned}/tokens",
            "/selections", "/selections/small-sql", "/compare?a=small-sql&b=small-random-sql", "/sources", "/sources/stayed-out",
            "/marks", "/runs",
        ):  # fmt: skip
            page.goto(home + path)
            assert fits(page), path
            assert page.evaluate(CONTRAST) == [], path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_is_cut_has_a_shadow_where_it_goes_on(chromium, home, scheme):
    """Its rows are hidden, so that pictures of its edges differ by the shadow alone."""
    with watched(chromium, home, color_scheme=scheme, **NARROW) as page:
        page.goto(f"{home}/selections")
        table = page.locator(".wide").first
        table.scroll_into_view_if_needed()
        table.locator("table").evaluate("one => { one.style.visibility = 'hidden'; }")

        def edges():
            box = table.bounding_box()
            clip = {"y": box["y"], "width": 12, "height": min(40, box["height"])}
            return [page.screenshot(clip={"x": x, **clip}) for x in (box["x"], box["x"] + box["width"] - 12)]

        left, right = edges()
        assert left != right, "it goes on at the right"
        table.evaluate("one => { one.scrollLeft = one.scrollWidth; }")
        assert edges()[1] == left, "it ends there"
        assert edges()[0] != left, "and goes on at the left"
        page.set_viewport_size({"width": 1280, "height": 900})
        left, right = edges()
        assert left == right, "all of it is there"


def test_all_is_reached_by_keyboard(view, home, chosen):
    view.goto(f"{home}/row/{chosen[0]}")
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        view.keyboard.press("Tab")
        if view.evaluate("document.activeElement.textContent") == "Neighbours":
            break
    width = view.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
    assert width >= 2
    view.keyboard.press("Enter")
    view.wait_for_url("**/neighbours")


CONTRAST = """() => {
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const draw = canvas.getContext("2d", {willReadFrequently: true});
  const flat = (colours) => { draw.fillStyle = "#fff"; draw.fillRect(0, 0, 1, 1);
    for (const one of colours) { draw.fillStyle = one; draw.fillRect(0, 0, 1, 1); }
    return [...draw.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = (rgb) => { const [r, g, b] = rgb.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, of = node.parentElement;
    if (!node.data.trim() || !of.checkVisibility() || of.closest("option, .skip")) continue;
    const grounds = []; for (let at = of; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const ground = flat(grounds), text = flat([...grounds, getComputedStyle(of).color]);
    const [high, low] = [light(ground), light(text)].sort((a, b) => b - a), ratio = (high + .05) / (low + .05);
    if (ratio < 4.5) poor.push([node.data.trim().slice(0, 30), of.className, ratio.toFixed(2)].join(" | "));
  }
  return [...new Set(poor)].slice(0, 10);
}"""
