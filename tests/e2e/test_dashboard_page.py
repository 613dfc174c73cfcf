"""The dashboard in a real browser: it lives, it can be read by everybody, it trusts no name, it comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from socaity.protocol.events import JobStatus
from tests.e2e.browser import Browser, Page
from tests.e2e.live_service import LiveService
from tests.server.live_doubles import FakeDataPlane, FakeDirect, FakeStatus

SCHEMES = ("light", "dark")
LEAST_CONTRAST = 4.5  # WCAG 2.2 AA, for text

# The least contrast of any text of the page to what is behind it, and which text it is.
CONTRAST = """(() => {
  const rgba = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    const unit = text.startsWith("color(") ? 255 : 1;
    return [...parts.slice(0, 3).map((part) => part * unit), parts[3] ?? 1];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a));
  const light = (color) => color.map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const chain = [];
    for (let at = element; at; at = at.parentElement) chain.unshift(rgba(getComputedStyle(at).backgroundColor));
    return chain.reduce((under, color) => over(color, under), [255, 255, 255]);
  };
  let worst = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, .unseen, script")) continue;
    const back = behind(element), front = over(rgba(getComputedStyle(element).color), back);
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < worst[0]) worst = [ratio, `${element.tagName}.${element.className}: ${element.textContent.slice(0, 40)}`];
  }
  return worst;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.open() as page:
        yield page


@pytest.fixture
def dataplane() -> FakeDataPlane:
    """One of everything."""
    mlp, forest = (
        FakeDirect("mlp_10", version="3"),
        FakeDirect("a-forest-with-quite-a-long-name-of-many-trees"),
    )
    mlp.work(calls=40, rows=3, seconds=0.02)
    mlp.statistics.failures.update(model=3, rejected=11)
    assert mlp.breaker is not None
    mlp.breaker.state, mlp.breaker.reason, mlp.breaker.opens = "open", "60 % of 40 calls failed", 1
    dataplane = FakeDataPlane(mlp, forest)
    dataplane.statuses = [
        FakeStatus("broken", "failed", None, (), "model_config.yaml:4: there is no file model.onnx"),
        FakeStatus("large", "loading"),
        FakeStatus("resting", "unloaded"),
    ]
    dataplane.queues = {"draw": {"waiting": 2, "running": 1}}
    dataplane.add_job(JobStatus.SUCCEEDED, finished_at=0.0)
    dataplane.add_job(JobStatus.FAILED, error={"detail": "out of memory"}, finished_at=0.0)
    dataplane.add_job(JobStatus.CANCELLED, finished_at=0.0)
    dataplane.add_job(JobStatus.QUEUED, queue_position=2)
    dataplane.add_job(JobStatus.RUNNING, fraction=0.25, message="step 1 of 4")
    return dataplane


@pytest.fixture
def service(dataplane: FakeDataPlane) -> Iterator[LiveService]:
    with LiveService(dataplane, interval=0.05) as service:
        yield service


def field(model: str, name: str) -> str:
    """The expression for a number of a model's card."""
    return f"document.querySelector('[data-model={json.dumps(model)}] [data-field={name}]').textContent"


def test_models_and_jobs_appear_and_change_by_themselves(
    page: Page, service: LiveService, dataplane: FakeDataPlane
) -> None:
    page.goto(f"{service.url}/dashboard")
    page.wait_for("document.querySelectorAll('.model').length === 2")
    assert page.run("document.title") == "shop"
    assert page.run(field("mlp_10", "breaker")) == "open"
    assert "3 failed in the model" in page.run(field("mlp_10", "failures"))
    assert "no file model.onnx" in page.run("document.querySelector('[data-model=broken]').textContent")
    assert page.run("document.querySelectorAll('.job').length") == 5
    running = f"document.querySelector('[data-job=\"{dataplane.records[0].id}\"]')"
    assert "step 1 of 4" in page.run(f"{running}.textContent")
    assert page.run(f"{running}.querySelector('[role=progressbar]').getAttribute('aria-valuenow')") == "25"

    dataplane.models[0].batcher.depth = 1234
    page.wait_for(f"{field('mlp_10', 'waiting')} === '1,234'")
    dataplane.models[0].work(calls=7)
    page.wait_for(f"{field('mlp_10', 'failures')}.includes('61 calls')")
    dataplane.records[0].fraction, dataplane.records[0].message = 0.75, "step 3 of 4"
    page.wait_for(f"{running}.textContent.includes('75 % · step 3 of 4')")
    dataplane.models.append(FakeDirect("new"))
    page.wait_for("document.querySelector('.model[data-model=new]')")
    dataplane.models.pop(0)
    page.wait_for("!document.querySelector('[data-model=mlp_10]')")
    page.wait_for("document.querySelector('.spark .line').getAttribute('d').includes('L')")


def test_page_is_silent_and_asks_only_the_server(page: Page, service: LiveService) -> None:
    page.goto(f"{service.url}/dashboard")
    page.wait_for("document.querySelector('#connection').dataset.kind === 'good'")
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.complaints == []
    asked = [urlsplit(url) for url in page.requests if not url.startswith("data:")]
    assert {url.netloc for url in asked} == {urlsplit(service.url).netloc}
    assert {url.path for url in asked} == {"/dashboard", "/ws"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_page_fits_every_width_and_can_be_read(page: Page, service: LiveService, scheme: str) -> None:
    page.prefer(color_scheme=scheme, reduced_motion="reduce")
    for width in (360, 1280, 1920, 2560):
        page.resize(width)
        page.goto(f"{service.url}/dashboard")
        page.wait_for("document.querySelectorAll('.job').length === 5")
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), width
        spilled = page.run(
            "[...document.querySelectorAll('main *')].filter((one) => one.checkVisibility()"
            " && one.getBoundingClientRect().right > innerWidth + 0.5).map((one) => one.outerHTML.slice(0, 80))"
        )
        assert spilled == [], width
    contrast, text = page.run(CONTRAST)
    assert contrast >= LEAST_CONTRAST, text
    background = page.run("getComputedStyle(document.documentElement).backgroundColor")
    darkness = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(", ")))
    assert (darkness < 150) is (scheme == "dark")


def test_numbers_move_nothing(page: Page, service: LiveService, dataplane: FakeDataPlane) -> None:
    model = dataplane.models[1]
    boxes = (
        "JSON.stringify([...document.querySelectorAll('.vitals dd, .model dd, .model figure, .model svg.chart')]"
        ".map((one) => { const { x, y, width, height } = one.getBoundingClientRect(); return [x, y, width, height]; }))"
    )
    page.resize(1280)
    page.goto(f"{service.url}/dashboard")
    page.wait_for("document.querySelectorAll('.model').length === 2")
    before = page.run(boxes)
    model.batcher.depth, model.batcher.queued_calls, model.batcher.drain_seconds = 98765, 43210, 321.5
    model.work(calls=1000, rows=7, seconds=1.5)
    page.wait_for(f"{field(model.name, 'waiting')} === '98,765' && {field(model.name, 'p99')} !== '–'")
    assert page.run(boxes) == before


def test_page_has_a_structure_for_those_who_do_not_see_it(page: Page, service: LiveService) -> None:
    page.goto(f"{service.url}/dashboard")
    page.wait_for("document.querySelectorAll('.model').length === 2")
    assert page.run("document.querySelectorAll('h1').length") == 1
    assert page.run("[...document.querySelectorAll('h2')].map((one) => one.textContent)") == [
        "Models",
        "Jobs",
    ]
    unnamed = "[...document.querySelectorAll('[role=img], [role=progressbar], [role=region], input')]"
    page.wait_for(f"{unnamed}.every((one) => one.getAttribute('aria-label'))")
    assert page.run("document.querySelector('#announcer').textContent") == "Connected"
    reachable = page.run(
        "[...document.querySelectorAll('a, input, [tabindex]')].filter((one) => one.checkVisibility()).length"
    )
    assert reachable == 3  # two links and the list of jobs


def test_markup_in_names_and_messages_is_shown_as_text(
    page: Page, service: LiveService, dataplane: FakeDataPlane
) -> None:
    evil = "</script><script>hacked=1</script><img src=/stolen onerror=hacked=1>"
    dataplane.title = evil
    dataplane.models = [FakeDirect(evil, version=evil, backend=evil)]
    dataplane.models[0].breaker = None
    dataplane.models[0].statistics.failures[evil] = 1
    dataplane.statuses = [FakeStatus(f"{evil}2", evil, evil, (evil, evil), evil, evil)]
    dataplane.queues = {evil: {"waiting": 0, "running": 0}}
    record = dataplane.add_job(message=evil)
    record.queue = evil
    page.goto(f"{service.url}/dashboard")
    page.wait_for("document.querySelector('.model')")
    assert page.run("document.querySelector('h1').textContent") == evil
    assert page.run("document.querySelector('.model h3').textContent") == evil
    assert page.run("document.querySelector('#absent .reason').textContent") == evil
    assert evil in page.run("document.querySelector('.job').textContent")
    assert page.run("document.querySelectorAll('img').length + document.scripts.length") == 1
    assert page.run("typeof hacked") == "undefined"
    assert not any("stolen" in url for url in page.requests)
    page.resize(360)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_scripts_of_others_do_not_run(page: Page, service: LiveService) -> None:
    page.goto(f"{service.url}/dashboard")
    page.wait_for("document.querySelector('.model')")
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'hacked = 1' }))"
    )
    assert page.run("typeof hacked") == "undefined"


def test_page_comes_back_after_the_server_was_restarted(
    page: Page, service: LiveService, dataplane: FakeDataPlane
) -> None:
    page.goto(f"{service.url}/dashboard")
    page.wait_for("document.querySelector('#connection').dataset.kind === 'good'")
    service.stop()
    page.wait_for("document.querySelector('#connection-text').textContent.includes('last update')")
    assert page.run("document.querySelectorAll('.model').length") == 2, "what was known stays"
    assert page.run("document.querySelector('#announcer').textContent") == "Connection lost"
    dataplane.instance, dataplane.models = "1f", [FakeDirect("fresh")]
    service.start()
    page.wait_for("document.querySelector('.model').dataset.model === 'fresh'")
    assert page.run("document.querySelector('#connection-text').textContent") == "Live"
    assert page.run("document.querySelectorAll('.model').length") == 1


def test_empty_service_says_so(page: Page) -> None:
    with LiveService(FakeDataPlane(title="empty")) as service:
        page.goto(f"{service.url}/dashboard")
        page.wait_for("!document.querySelector('#main').hidden")
        assert page.run("document.querySelector('#no-models').checkVisibility()")
        assert page.run("document.querySelector('#no-jobs').checkVisibility()")
        assert not page.run("document.querySelector('#jobs-card').checkVisibility()")


def test_many_models_can_be_filtered(page: Page, service: LiveService, dataplane: FakeDataPlane) -> None:
    dataplane.models = [FakeDirect(f"model-{number}") for number in range(40)]
    page.goto(f"{service.url}/dashboard")
    page.wait_for("document.querySelectorAll('.model').length === 40")
    page.run(
        "(() => { const box = document.querySelector('#filter'); box.value = '-39';"
        " box.dispatchEvent(new Event('input')); })()"
    )
    page.wait_for("[...document.querySelectorAll('.model')].filter((one) => !one.hidden).length === 1")
