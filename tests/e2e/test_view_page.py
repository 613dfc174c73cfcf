"""The views of the notebook in a real browser: they fit, they can be read by everybody, they trust no name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.browser import Browser, Page
from tests.e2e.test_dashboard_page import CONTRAST, LEAST_CONTRAST
from tests.e2e.view_gallery import gallery

SCHEMES = ("light", "dark")
WIDTHS = (400, 1400)
PAGE = """<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><style>body{margin:8px}%s</style></head><body %s>%s</body></html>"""
JUPYTER_DARK = ("--jp-layout-color0:#111;--jp-ui-font-family:sans-serif", 'data-jp-theme-light="false"')
JUPYTER_LIGHT = ("--jp-layout-color0:#fff;--jp-ui-font-family:sans-serif", 'data-jp-theme-light="true"')

# The least contrast of the text in the graphs, which lies on boxes and not on backgrounds.
GRAPH_CONTRAST = """(() => {
  const rgba = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    const unit = text.startsWith("color(") ? 255 : 1;
    return [...parts.slice(0, 3).map((part) => part * unit), parts[3] ?? 1];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a));
  const light = (color) => color.map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  let worst = [99, ""];
  for (const text of document.querySelectorAll(".node text")) {
    if (!text.checkVisibility()) continue;
    const card = rgba(getComputedStyle(text.closest(".socaity-view")).backgroundColor);
    const box = over(rgba(getComputedStyle(text.parentNode.querySelector("rect")).fill), over(card, [255, 255, 255]));
    const [high, low] = [light(box), light(over(rgba(getComputedStyle(text).fill), box))].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < worst[0]) worst = [ratio, text.textContent];
  }
  return worst;
})()"""


@pytest.fixture(scope="module")
def views() -> dict[str, str]:
    return gallery()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.open() as page:
        yield page


def show(page: Page, views: dict[str, str], folder: Path, *, style: str = "", body: str = "") -> None:
    """All views, or some, on a page of their own."""
    sections = "".join(
        f"<h2>{name}</h2><section data-view='{name}'>{view}</section>" for name, view in views.items()
    )
    path = folder / "views.html"
    path.write_text(PAGE % (f"body{{{style}}}", body, sections), encoding="utf-8")
    page.goto(path.as_uri())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_views_fit_every_width_and_can_be_read(
    page: Page, views: dict[str, str], tmp_path: Path, scheme: str, width: int
) -> None:
    page.prefer(color_scheme=scheme)
    page.resize(width)
    show(page, views, tmp_path)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    spilled = page.run(
        "[...document.querySelectorAll('.socaity-view *')].filter((one) => one.checkVisibility()"
        " && !one.closest('.scroll, .table, svg, audio') && one.getBoundingClientRect().right > innerWidth + 0.5)"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert spilled == []
    headings = "document.querySelectorAll('h2').forEach((one) => one.style.display = '%s')"
    page.run(headings % "none")  # they are the page's own
    for measure in (CONTRAST, GRAPH_CONTRAST):
        contrast, text = page.run(measure)
        assert contrast >= LEAST_CONTRAST, text
    page.run(headings % "block")
    kept = os.environ.get("SOCAITY_SCREENSHOTS")  # to be looked at
    page.resize(width, page.run("document.documentElement.scrollHeight"))
    page.screenshot(Path(kept or tmp_path) / f"views-{scheme}-{width}.png")


@pytest.mark.parametrize(
    ("scheme", "style", "body", "is_dark"),
    [
        ("light", *JUPYTER_DARK, True),
        ("dark", *JUPYTER_LIGHT, False),
        ("light", "", 'class="vscode-dark"', True),
    ],
)
def test_the_theme_of_the_notebook_wins_over_that_of_the_system(
    page: Page, views: dict[str, str], tmp_path: Path, scheme: str, style: str, body: str, is_dark: bool
) -> None:
    page.prefer(color_scheme=scheme)
    show(page, {name: views[name] for name in ("failed pipeline", "group")}, tmp_path, style=style, body=body)
    background = page.run("getComputedStyle(document.querySelector('.socaity-view')).backgroundColor")
    darkness = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(", ")))
    assert (darkness < 150) is is_dark
    page.run("document.querySelectorAll('h2').forEach((one) => one.remove())")
    for measure in (CONTRAST, GRAPH_CONTRAST):
        contrast, text = page.run(measure)
        assert contrast >= LEAST_CONTRAST, text


def test_the_style_of_a_notebook_does_not_move_a_view(
    page: Page, views: dict[str, str], tmp_path: Path
) -> None:
    page.resize(1400)
    shown = {name: views[name] for name in ("failed pipeline", "dict", "table", "service")}
    show(page, shown, tmp_path, body='class="jp-RenderedHTMLCommon"')
    places = "JSON.stringify([...document.querySelectorAll('.socaity-view *')].map((one) => one.getBoundingClientRect()))"
    before = page.run(places)
    rules = (  # of JupyterLab 4
        ".jp-RenderedHTMLCommon ul:not(.list-inline), .jp-RenderedHTMLCommon ol:not(.list-inline) { padding-left: 2em; }"
        " .jp-RenderedHTMLCommon ol { list-style: decimal; margin: 0.4em 2em; }"
        " .jp-RenderedHTMLCommon table { margin-left: auto; margin-right: auto; border-collapse: collapse; }"
        " .jp-RenderedHTMLCommon td, .jp-RenderedHTMLCommon th { text-align: right; padding: 0.5em; max-width: none; }"
        " :not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon td { text-align: right; line-height: normal; }"
        " .jp-RenderedHTMLCommon tbody tr:nth-child(even) { background: #888; } .jp-RenderedHTMLCommon pre { padding: 0; }"
        " .jp-RenderedHTMLCommon :not(pre) > code { background-color: #888; padding: 1px 5px; }"
        " .jp-RenderedHTMLCommon img { max-width: 100%; height: auto; } .jp-RenderedHTMLCommon pre { margin: 1em; }"
        " .jp-OutputArea-output dt { float: left; width: 20%; } .jp-RenderedHTMLCommon dl dt { width: 20%; }"
        " .jp-RenderedHTMLCommon dl dd { margin-left: 20%; }"
    )
    page.run(
        "document.head.append(Object.assign(document.createElement('style'),"
        f" {{ textContent: {json.dumps(rules)} }}))"
    )
    assert page.run(places) == before
    coloured = "[...document.querySelectorAll('.socaity-view :is(tr, code)')].map((one) => getComputedStyle(one).backgroundColor)"
    assert set(page.run(coloured)) == {"rgba(0, 0, 0, 0)"}
    aligned = "[...document.querySelectorAll('.socaity-view :is(td, th)')].map((one) => getComputedStyle(one).textAlign)"
    assert set(page.run(aligned)) == {"left"}


def test_the_graph_lies_down_where_it_is_narrow(page: Page, views: dict[str, str], tmp_path: Path) -> None:
    shown = "[...document.querySelectorAll('svg.graph')].filter((one) => one.checkVisibility()).map((one) => one.classList[1])"
    for width, kind in ((1400, "across"), (400, "down")):
        page.resize(width)
        show(page, {"running pipeline": views["running pipeline"]}, tmp_path)
        assert page.run(shown) == [kind]


def test_text_in_the_boxes_of_a_graph_stays_inside(page: Page, views: dict[str, str], tmp_path: Path) -> None:
    show(page, views, tmp_path)
    page.resize(1400)
    outside = page.run(
        "[...document.querySelectorAll('.node text')].filter((one) => one.checkVisibility() &&"
        " one.getBoundingClientRect().right > one.parentNode.querySelector('rect').getBoundingClientRect().right)"
        ".map((one) => one.textContent)"
    )
    assert outside == []


def test_pictures_and_sounds_are_played_by_the_browser(
    page: Page, views: dict[str, str], tmp_path: Path
) -> None:
    show(page, views, tmp_path)
    page.wait_for("[...document.images].every((one) => one.complete)")
    assert page.run("document.images.length") > 5
    assert page.run("[...document.images].filter((one) => !one.naturalWidth || !one.alt).length") == 0
    seconds = """new Promise((done) => {
      const one = document.querySelector("audio"), look = () => done(one.duration);
      one.readyState ? look() : one.addEventListener("loadedmetadata", look);
    })"""
    assert page.run(seconds) == pytest.approx(3.0, abs=0.01)


def test_views_ask_for_nothing_and_complain_of_nothing(
    page: Page, views: dict[str, str], tmp_path: Path
) -> None:
    show(page, views, tmp_path)
    assert page.run("typeof hacked") == "undefined"
    assert page.run("document.scripts.length") == 0
    assert "<script>hacked=1</script>" in page.run("document.querySelector('[data-view=evil]').innerText")
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("data:", "file:"))] == []


def test_views_have_names_for_those_who_do_not_see_them(
    page: Page, views: dict[str, str], tmp_path: Path
) -> None:
    show(page, views, tmp_path)
    unnamed = page.run(
        "[...document.querySelectorAll('.socaity-view, [role]')].filter((one) => !one.getAttribute('aria-label'))"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert unnamed == []


def test_the_style_of_a_view_changes_nothing_around_it(
    page: Page, views: dict[str, str], tmp_path: Path
) -> None:
    outside = "<p id=outside><b>b</b><code>c</code><svg class=graph><g class=node><rect/></g></svg></p>"
    look = (
        "JSON.stringify([...document.querySelectorAll('#outside, #outside *')].map((one) => {"
        " const all = getComputedStyle(one); return [...all].map((name) => all.getPropertyValue(name)); }))"
    )
    show(page, {"plain": outside}, tmp_path, style="overflow:hidden")
    before = page.run(look)
    show(
        page,
        {"plain": outside, "running pipeline": views["running pipeline"]},
        tmp_path,
        style="overflow:hidden",
    )
    assert page.run(look) == before
