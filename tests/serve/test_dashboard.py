"""The dashboard in Debian's Chromium, over a real server and small real stores."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import shutil
import time
from pathlib import Path
from urllib.parse import parse_qs
from urllib.request import Request, urlopen

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from PIL import Image

import hubstore
from hubstore.corpus import Corpus, Item, read_sample
from tests.extraction.test_media import png
from tests.serve.dashboard_server import (
    HOSTILE,
    LANGUAGES,
    SENTENCES,
    experiment_folder,
    image_store,
    serving,
    words_store,
)
from tests.serve.servers import served
from tests.test_readme import save_tiny_llava
from tests.tiny_media import random_image
from tests.tiny_models import save_tiny_language_model, tiny_language_model

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
expect = playwright.expect
PATIENCE_S = 60
"""That anything may take on a machine that is busy with other things."""

expect.set_options(timeout=1000 * PATIENCE_S)
CHROMIUM = os.environ.get("HUBSTORE_CHROMIUM") or shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip(
        "Chromium is not installed (apt-get install chromium); or name one: HUBSTORE_CHROMIUM", allow_module_level=True
    )

pytestmark = pytest.mark.browser
LAPTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
VIEWS = ("overview", "curves", "map", "neighbors", "lens", "steering", "experiments")
ITEMS = SENTENCES * len(LANGUAGES) + len(HOSTILE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    save_tiny_language_model("llama", folder / "model")
    save_tiny_llava(folder)
    words_store(folder / "model", folder / "words.hub")
    image_store(folder / "llava", folder / "images.hub")
    experiment_folder(folder / "experiments")
    return folder


@pytest.fixture(scope="module")
def url(folder):
    stores = [folder / "words.hub", folder / "images.hub"]
    options = ("--model", str(folder / "model"), "--experiments", str(folder / "experiments"))
    with serving(stores, *options) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as made:
        opened = made.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def new_page(browser):
    """Makes pages; none may have an error, ask another server for anything, or run a corpus's script."""
    contexts, wrong, expected = [], [], []

    def make(size=LAPTOP, *, refused=(), **options):
        expected.extend(refused)
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        context.set_default_timeout(1000 * PATIENCE_S)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                wrong.append(asked.url) if not re.match(r"(http://127\.0\.0\.1|blob:|data:)", asked.url) else None
            ),
        )
        return page

    yield make
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.attacked") is None
        context.close()
    assert [one for one in wrong if not any(words in one for words in expected)] == []


@pytest.fixture
def page(new_page):
    return new_page()


def show(page, url, address):
    """Goes to a state by its address and waits until it is there."""
    page.goto("about:blank")
    page.goto(f"{url}/#/{address}")
    settle(page)


def settle(page):
    expect(page.locator("main > div")).to_be_visible()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def until(page, condition):
    """Waits until something holds that the page does not say by itself."""
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, f"it does not come about: {inspect.getsource(condition).strip()}"
        page.wait_for_timeout(50)


def asked(page):
    """The parameters in the page's address."""
    return parse_qs(page.url.partition("?")[2])


def drawn(page):
    """The map's pixels, once two looks at it show the same."""
    seen = []
    until(page, lambda: seen.append(page.locator(".plane").screenshot()) or seen[-2:] == [seen[-1]] * 2)
    return seen[-1]


def downloaded(page, name):
    with page.expect_download() as waiting:
        page.locator(".downloads").get_by_text(name, exact=True).first.click()
    return io.BytesIO(waiting.value.path().read_bytes())


def test_it_starts_with_what_the_store_holds(page, url):
    page.goto(url)
    settle(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("words")
    expect(page.locator("dl.figures")).to_contain_text(str(ITEMS))
    rows = page.get_by_role("region", name="Partitions").last.locator("tbody tr")
    expect(rows).to_have_count(len(LANGUAGES))
    expect(rows.filter(has_text="Swahili")).to_contain_text(str(SENTENCES))
    page.get_by_label("Store", exact=True).select_option("images")
    expect(page.get_by_role("heading", level=1)).to_have_text("images")
    until(page, lambda: asked(page).get("store") == ["images"])
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("words")


def recall_by_layer(url):
    """By layer, the mean over the other languages of recall@1, centered, of both directions with English."""
    with urlopen(f"{url}/api/v1/stores/words/curves?analysis=retrieval&pivot=en&format=json") as answer:
        columns = json.load(answer)["columns"]
    found = {}
    for metric, variant, layer, value in zip(
        *(columns[name] for name in ("metric", "variant", "layer", "value")), strict=True
    ):
        if (metric, variant) == ("recall@1", "centered"):
            found.setdefault(layer, []).append(value)
    assert {len(values) for values in found.values()} == {2 * (len(LANGUAGES) - 1)}
    return {layer: sum(values) / len(values) for layer, values in found.items()}


def test_the_first_screen_has_the_hub_curve_and_says_in_words_where_it_is_highest(page, url):
    means = recall_by_layer(url)
    best = max(means, key=lambda layer: means[layer])
    show(page, url, "overview?store=words")
    says = page.get_by_role("region", name="Hub curve").locator(".finding")
    where = "the embeddings" if best == "0" else f"layer {best}"
    expect(says).to_contain_text(f"At {where}, ")
    share = float(says.text_content().split(", ")[1].split(" %")[0]) / 100
    assert share == pytest.approx(means[best], abs=0.005)
    assert f"English with {len(LANGUAGES) - 1} others" in says.text_content()
    expect(page.locator(".looks .scatterlayer .trace")).not_to_have_count(0)


def test_all_pairs_are_drawn_at_first_with_their_mean_and_a_heat_map(page, url):
    show(page, url, "curves?store=words")
    expect(page.locator(".heatmaplayer image")).to_have_count(1)
    names = page.locator(".looks .ytick text").all_text_contents()
    assert {"Arabic", "Swahili"} <= set(names)
    page.get_by_role("combobox", name="Pairs").fill("ar sw")
    page.locator("[role=option]").first.click()
    settle(page)
    until(page, lambda: asked(page).get("pair") == ["ar:sw"])
    expect(page.locator(".heatmaplayer image")).to_have_count(0)


def test_views_are_reached_by_the_keyboard_alone_and_back_goes_back(page, url):
    page.goto(url)
    settle(page)
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    links = page.get_by_role("navigation").get_by_role("link")
    expect(links).to_have_count(len(VIEWS))
    for place in range(1, len(VIEWS)):
        links.nth(place).focus()
        page.keyboard.press("Enter")
        settle(page)
        expect(page.locator("nav [aria-current]")).to_have_text(links.nth(place).text_content())
        expect(links.nth(place)).to_be_focused()
    for place in reversed(range(len(VIEWS) - 1)):
        page.go_back()
        expect(page.locator("nav [aria-current]")).to_have_text(links.nth(place).text_content())


def test_hub_curves_of_pairs_that_are_chosen_by_typing(page, url):
    show(page, url, "curves?store=words&analysis=similarity&pair=en:ar")
    field = page.get_by_role("combobox", name="Pairs")
    field.fill("sw zh")
    expect(page.locator("[role=option]")).to_have_count(1)
    field.press("ArrowDown")
    field.press("Enter")
    settle(page)
    until(page, lambda: asked(page).get("pair") == ["en:ar", "sw:zh-Hans"])
    peaks = page.get_by_role("region", name="Where each curve is highest")
    expect(peaks.locator("tbody tr")).to_have_count(2)
    expect(peaks).to_contain_text("sw – zh-Hans")
    expect(page.locator(".figure .scatterlayer .trace")).not_to_have_count(0)
    page.get_by_label("Quantity").select_option("matched")
    page.get_by_label("States").select_option("centered")
    settle(page)
    until(page, lambda: asked(page).get("metric") == ["matched"])
    until(page, lambda: asked(page).get("variant") == ["centered"])
    page.get_by_label("Remove English – Arabic").click()
    settle(page)
    expect(peaks.locator("tbody tr")).to_have_count(1)
    page.go_back()
    settle(page)
    expect(peaks.locator("tbody tr")).to_have_count(2)


@pytest.mark.parametrize("analysis", ["similarity", "retrieval", "alignment", "clustering", "geometry"])
def test_every_analysis_is_drawn(page, url, analysis):
    show(page, url, f"curves?store=words&analysis={analysis}")
    expect(page.get_by_role("button", name=analysis.capitalize())).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".figure .scatterlayer .trace")).not_to_have_count(0)
    page.locator("summary", has_text="All values").click()
    expect(page.get_by_role("region", name="All values").locator("tbody tr")).not_to_have_count(0)


def test_curves_are_downloaded_as_csv_parquet_and_png(page, url):
    show(page, url, "curves?store=words&analysis=similarity&pair=en:sw")
    by_csv, by_parquet = pacsv.read_csv(downloaded(page, "CSV")), pq.read_table(downloaded(page, "Parquet"))
    assert by_csv.column_names == by_parquet.column_names
    assert by_csv.num_rows == by_parquet.num_rows > 0
    assert set(by_parquet["x"].to_pylist()) == {"en"}
    image = Image.open(downloaded(page, "PNG"))
    assert image.format == "PNG"
    assert image.width > 1000


def test_the_map_is_colored_by_a_kept_column_and_by_density_and_its_clusters_have_words(page, tmp_path):
    topics = {"ships": "harbor sails anchor", "rain": "cloud umbrella storm"}
    rows = [
        {
            "id": f"{topic}:{n}",
            "text": f"{words} {n}",
            "language": "en",
            "concept": f"{topic}{n}",
            "source": topic,
            "year": n,
        }
        for topic, words in topics.items()
        for n in range(30)
    ]
    corpus = hubstore.read_memory(rows, keep_columns="source,year")
    hubstore.extract(corpus, tiny_language_model("llama"), tmp_path / "topics.hub", dtype="float32")
    with served(tmp_path / "topics.hub") as running:
        show(page, running.url, "map?layer=2&color=column:source")
        keys = page.locator(".legend .keys li")
        expect(keys).to_have_text(["rain30", "ships30"])
        by_source = drawn(page)
        page.get_by_label("Color", exact=True).select_option("column:year")
        settle(page)
        expect(keys).to_have_count(6)
        page.get_by_label("Color", exact=True).select_option("density")
        expect(keys.first).to_contain_text("sparsest")
        page.get_by_label("Color", exact=True).select_option("column:source")
        settle(page)
        until(page, lambda: drawn(page) == by_source)
        page.get_by_label("Words of clusters").uncheck()
        until(page, lambda: asked(page).get("labels") == ["0"])
        assert drawn(page) != by_source
        page.goto("about:blank")


def test_an_area_that_is_drawn_on_the_map_is_counted_listed_downloaded_and_part_of_the_address(page, url):
    show(page, url, "map?store=words&layer=1")
    drawn(page)
    page.get_by_role("button", name="Draw an area").click()
    box = page.locator(".plane").bounding_box()
    left, top, right, bottom = box["x"] + 4, box["y"] + 4, box["x"] + box["width"] / 2, box["y"] + box["height"] - 4
    page.mouse.move(left, top)
    page.mouse.down()
    for corner in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(*corner, steps=5)
    page.mouse.up()
    until(page, lambda: asked(page).get("area-layer") == ["1"])
    chosen = page.get_by_role("region", name="Selection")
    count = int(chosen.locator("h2").text_content().split()[0])
    assert 0 < count < ITEMS
    expect(chosen.locator("li")).to_have_count(count)
    with page.expect_download() as waiting:
        chosen.get_by_text("CSV", exact=True).click()
    table = pacsv.read_csv(waiting.value.path(), parse_options=pacsv.ParseOptions(newlines_in_values=True))
    assert table.column_names == ["id", "concept", "language", "modality", "text"]
    assert len(set(table["id"].to_pylist())) == count
    page.reload()
    settle(page)
    expect(chosen.locator("li")).to_have_count(count)
    chosen.get_by_role("button", name="Put the selection away").click()
    expect(chosen).to_have_count(0)
    page.get_by_role("button", name="Select all in view").click()
    expect(chosen.locator("h2")).to_have_text(f"{ITEMS} items")


def test_the_map_moves_by_the_slider_and_shows_the_item_that_is_clicked(page, url):
    show(page, url, "map?store=words&layer=0")
    slider = page.get_by_role("slider", name="Layer")
    before = drawn(page)
    slider.focus()
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    until(page, lambda: asked(page).get("layer") == ["2"])
    expect(slider).to_have_attribute("aria-valuetext", "layer 2")
    until(page, lambda: page.locator(".plane").screenshot() != before)
    drawn(page)
    box = page.locator(".plane").bounding_box()
    point = next(found for found in points_of(page, box) if found)
    page.mouse.click(*point)
    card = page.locator(".item-card")
    expect(card).to_be_visible()
    chosen = asked(page)["item"][0]
    expect(card).to_contain_text(chosen)
    equivalent = card.locator(".links a").first
    other = equivalent.text_content()
    equivalent.click()
    settle(page)
    until(page, lambda: asked(page).get("item") == [other] != [chosen])
    page.go_back()
    settle(page)
    expect(page.locator(".item-card")).to_contain_text(chosen)
    card.get_by_role("link", name="Neighbors").click()
    settle(page)
    expect(page.locator(".layer")).to_have_count(3)


def points_of(page, box):
    """Places in the map where there is a point that has equivalents, found as one would with a mouse."""
    for down in range(4, 50):
        for across in range(4, 50, 2):
            place = box["x"] + box["width"] * across / 54, box["y"] + box["height"] * down / 54
            page.mouse.move(*place)
            tip = page.locator(".plane .tip")
            yield place if tip.is_visible() and "x:" not in tip.text_content() else None


def test_the_map_plays_lights_up_what_is_sought_and_shows_one_color_alone(page, url):
    show(page, url, "map?store=words&layer=0&color=language")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.get_by_role("slider", name="Layer")).to_have_attribute("aria-valuetext", "layer 3")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.get_by_label("Search").fill("Welsh")
    expect(page.locator("#said")).to_contain_text("hold “Welsh”")
    page.get_by_label("Search").fill("")
    key = page.locator(".legend").get_by_role("button", name="Swahili")
    key.click()
    expect(key).to_have_attribute("aria-pressed", "true")
    until(page, lambda: asked(page).get("only") == ["sw"])
    image = Image.open(downloaded(page, "PNG")).convert("L")
    assert len(set(image.tobytes())) > 20


def test_the_map_is_moved_and_zoomed_by_keyboard(page, url):
    show(page, url, "map?store=words")
    plane = page.get_by_role("application", name="Map of the items")
    plane.focus()
    plane.press("+")
    plane.press("ArrowRight")
    x, _, zoom = map(float, asked(page)["at"][0].split(","))
    assert x > 0
    assert zoom > 1
    plane.press("0")
    assert "at" not in asked(page)


def test_neighbors_of_an_item_that_is_found_by_typing(page, url):
    show(page, url, "neighbors?store=words")
    expect(page.get_by_text("Choose an item.")).to_be_visible()
    field = page.get_by_role("combobox", name="Find an item")
    field.press_sequentially("en:2")
    expect(page.locator("[role=option]").first).to_contain_text("en:2")
    field.press("Enter")
    settle(page)
    until(page, lambda: asked(page).get("item") == ["en:2"])
    columns = page.locator(".layer")
    expect(columns).to_have_count(3)
    expect(columns.first.locator(".hit")).to_have_count(10)
    expect(page.locator(".hit.same").first).to_contain_text("same concept")
    page.get_by_label("Other languages only").check()
    settle(page)
    expect(page.locator(".hit .chip").filter(has_text="English")).to_have_count(0)
    raw = columns.first.locator(".hit").all_inner_texts()
    page.get_by_label("Means removed").check()
    settle(page)
    expect(page.get_by_text("without the mean of each language and modality")).to_be_visible()
    assert columns.first.locator(".hit").all_inner_texts() != raw
    until(page, lambda: asked(page).get("centered") == ["1"])
    page.get_by_role("combobox", name="Layers side by side").fill("1")
    page.get_by_role("combobox", name="Layers side by side").press("ArrowDown")
    page.get_by_role("combobox", name="Layers side by side").press("Enter")
    settle(page)
    expect(columns).to_have_count(4)
    page.get_by_role("button", name="Language", exact=True).click()
    settle(page)
    expect(columns.first.locator("h3").first).to_contain_text("neighbor")
    columns.first.locator(".hit-text").first.click()
    settle(page)
    until(page, lambda: asked(page).get("item") != ["en:2"])
    page.go_back()
    settle(page)
    until(page, lambda: asked(page).get("item") == ["en:2"])
    expect(columns).to_have_count(4)
    assert pq.read_table(downloaded(page, "Parquet")).num_rows == 40


def test_neighbors_of_a_text_that_is_typed(page, url):
    show(page, url, "neighbors?store=words")
    page.get_by_role("button", name="A text").click()
    page.get_by_label("Text", exact=True).fill("A vote on Wales")
    page.get_by_label("Text", exact=True).press("Enter")
    settle(page)
    until(page, lambda: asked(page).get("text") == ["A vote on Wales"])
    expect(page.locator(".layer").first.locator(".hit")).to_have_count(10)
    page.get_by_label("Other languages only").check()
    expect(page.get_by_text("Which language is the text in?")).to_be_visible()
    page.get_by_label("The text is in").select_option("en")
    settle(page)
    expect(page.locator(".hit .chip").filter(has_text="English")).to_have_count(0)


def test_neighbors_of_an_image_that_is_dropped_with_thumbnails_of_those_found(new_page, folder):
    with serving([folder / "images.hub"], "--model", str(folder / "llava")) as url:
        page = new_page()
        show(page, url, "neighbors?by=file&group=modality")
        expect(page.get_by_text("Give an image or audio.")).to_be_visible()
        page.locator("input[type=file]").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"no"})
        expect(page.locator(".drop")).to_contain_text("neither an image nor audio")
        page.locator("input[type=file]").set_input_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": png(random_image(3, 160, 128))}
        )
        settle(page)
        expect(page.locator(".layer").first.locator(".hit")).to_have_count(10)
        thumbnail = page.locator(".hit img").first
        thumbnail.scroll_into_view_if_needed()
        expect(thumbnail).to_have_js_property("complete", True)
        assert thumbnail.evaluate("image => image.naturalWidth") > 10


def test_what_a_server_without_the_model_cannot_do_is_said_in_place(page, url):
    show(page, url, "neighbors?store=images&by=text&text=a")
    expect(page.get_by_text("This server reads no new texts")).to_be_visible()
    show(page, url, "lens?store=images")
    expect(page.get_by_text("This store keeps no lens.")).to_be_visible()


def test_the_lens_is_walked_by_keyboard(page, url):
    show(page, url, "lens?store=words&item=en:1&tokens=every")
    grid = page.get_by_role("grid")
    expect(grid.locator("tbody tr")).to_have_count(4)
    cell = grid.locator("td[tabindex='0']")
    cell.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(page.locator(":focus")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".lens-detail h2")).to_contain_text("Layer 2 at")
    expect(page.locator(".lens-detail li")).to_have_count(8)
    page.get_by_role("button", name="Raw").click()
    settle(page)
    until(page, lambda: asked(page).get("variant") == ["raw"])
    assert Image.open(downloaded(page, "PNG")).width > 500


def test_the_lens_reads_a_text_while_it_is_typed_its_last_token_normed_first(page, url):
    show(page, url, "lens?store=words&item=en:1")
    ladder = page.locator(".lens-ladder")
    expect(ladder.locator("tbody tr")).to_have_count(4)
    expect(page.get_by_role("button", name="Normed")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="A text").click()
    expect(page.get_by_text("Type a text.")).to_be_visible()
    page.get_by_label("Text, read as you type").press_sequentially("Nine ships left", delay=20)
    expect(page.locator(".lens-caption")).to_contain_text("after “")
    first = ladder.locator("tbody").text_content()
    until(page, lambda: asked(page).get("text") == ["Nine ships left"])
    body = {"texts": ["Nine ships left"], "variant": "normed", "k": 8, "last": True}
    words = posted(f"{url}/api/v1/stores/words/lens", body)["columns"]
    top = words["layer"].index("final")
    expect(ladder.locator("tbody tr").first.locator("td")).to_have_count(8)
    until(page, lambda: words["top_tokens"][top][0].strip() in ladder.locator("tbody tr").first.text_content())
    page.get_by_label("Text, read as you type").press_sequentially(" and rain", delay=20)
    until(page, lambda: ladder.locator("tbody").text_content() != first)
    page.get_by_role("button", name="Every token").click()
    expect(page.get_by_role("grid").locator("thead th")).not_to_have_count(2)
    page.reload()
    settle(page)
    expect(page.get_by_label("Text, read as you type")).to_have_value("Nine ships left and rain")


@pytest.mark.parametrize(("tokens", "last"), [("last", True), ("every", False)])
def test_the_lens_asks_for_no_more_tokens_of_a_text_than_it_shows(page, url, tokens, last):
    with page.expect_request(lambda one: one.method == "POST" and one.url.endswith("/words/lens")) as asking:
        show(page, url, f"lens?store=words&by=text&text=Rain+falls&tokens={tokens}")
    assert asking.value.post_data_json["last"] is last


def test_trends_that_a_store_keeps_stand_beside_its_lens(page, folder, tmp_path):
    shutil.copytree(folder / "words.hub", tmp_path / "words.hub")
    corpus = read_sample("ntrex", languages=("en", "sw"), limit=5)
    hubstore.open(tmp_path / "words.hub").trends(corpus, bootstrap=0)
    with served(tmp_path / "words.hub") as running:
        show(page, running.url, "lens?item=sw:1")
        beside = page.get_by_role("region", name="Trends")
        expect(beside.locator("figcaption")).to_have_text("In which language the lens reads sw · Swahili")
        expect(beside.locator(".scatterlayer .trace")).to_have_count(2)
        page.goto("about:blank")


def posted(address, body):
    """The JSON that answers a JSON body."""
    request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        return json.load(answer)


def test_a_prompt_is_steered_by_a_slider_whose_scale_is_explained(page, url):
    show(page, url, "steering?store=words&tokens=5")
    sides = page.locator(".side")
    expect(sides).to_have_count(2)
    expect(page.get_by_text("Strength 1 adds the whole difference of the two sides")).to_be_visible()
    plain = sides.first.text_content()
    slider = page.get_by_role("slider", name="Strength")
    slider.focus()
    slider.press("End")
    until(page, lambda: asked(page).get("strength") == ["8"])
    expect(sides.last.locator("h2")).to_have_text("Steered, strength 8")
    assert sides.first.text_content() == plain
    query = {"prompts": ["Rain fell"], "from_texts": ["Good"], "to_texts": ["Bad"], "layer": 1, "strengths": [0, 8]}
    found = posted(f"{url}/api/v1/stores/words/steer", {**query, "max_new_tokens": 5})["columns"]
    for label, text in (("Prompt", "Rain fell"), ("Away from", "Good"), ("Toward", "Bad")):
        page.locator("textarea").and_(page.get_by_label(label)).fill(text)
    page.get_by_role("slider", name="Layer").fill("1")
    until(
        page, lambda: [asked(page).get(name) for name in ("prompt", "to", "layer")] == [["Rain fell"], ["Bad"], ["1"]]
    )
    settle(page)
    for side, text in zip((sides.first, sides.last), found["text"], strict=True):
        until(page, lambda side=side, text=text: visible_words(text) in visible_words(side.text_content()))
    page.get_by_role("button", name="Two languages' means").click()
    settle(page)
    expect(sides).to_have_count(2)
    slider.fill("0")
    expect(sides).to_have_count(1)


def visible_words(text):
    """A text without spaces and what stands in for what cannot be seen."""
    return re.sub(r"\W+|U\+[0-9A-F]{4}", "", text)


def test_a_server_without_a_model_says_how_to_have_one(page, folder):
    with served(folder / "words.hub") as running:
        show(page, running.url, "steering?store=words")
        expect(page.get_by_text("--model MODEL")).to_be_visible()
        show(page, running.url, "lens?store=words&by=text")
        expect(page.get_by_text("This server reads no new texts.")).to_be_visible()
        page.goto("about:blank")


def test_experiments_are_listed_with_their_verdicts_and_opened(page, url):
    show(page, url, "experiments?store=words")
    expect(page.locator("tbody tr")).to_contain_text("shown")
    page.get_by_role("link", name="Translations are alike").click()
    settle(page)
    expect(page.locator(".finding")).to_contain_text("at layer 3")
    expect(page.locator(".figure .scatterlayer .trace")).not_to_have_count(0)
    expect(page.get_by_text("<b>a note</b>")).to_be_visible()
    assert pacsv.read_csv(downloaded(page, "CSV")).num_rows == 8


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_shown_as_text(page, url, name):
    for view in ("neighbors", "map", "lens"):
        show(page, url, f"{view}?store=words&item=x:{name}&layer=0")
        shown = page.locator(".item-card .passage").text_content()
        assert shown.startswith(HOSTILE[name][:5])
        assert "\u202e" not in shown
        assert "⟨U+202E⟩" in shown or name != "order"
        assert page.locator("main script, main b, main img[src=x]").count() == 0
    page.get_by_role("combobox", name="Find an item").press_sequentially(f"x:{name}")
    expect(page.locator("[role=option]").first).to_contain_text(f"x:{name}")
    assert page.evaluate("document.documentElement.scrollWidth") <= LAPTOP["width"]


def test_a_token_is_asked_for_once_and_serves_thumbnails_and_downloads_too(new_page, folder):
    with serving([folder / "images.hub"], token="correct horse") as url:
        page = new_page(refused=["401"])
        page.goto(f"{url}/#/neighbors?item=image:1")
        page.get_by_label("Token", exact=True).fill("wrong")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("alert")).to_contain_text("did not accept")
        page.get_by_label("Token", exact=True).fill("correct horse")
        page.get_by_label("Token", exact=True).press("Enter")
        settle(page)
        expect(page.locator(".item-card img")).to_be_visible()
        assert pq.read_table(downloaded(page, "Parquet")).num_rows == 30
        page.reload()
        settle(page)
        expect(page.get_by_role("dialog")).to_be_hidden()


def test_a_store_that_has_changed_is_noticed(new_page, folder, tmp_path):
    shutil.copytree(folder / "words.hub", tmp_path / "words.hub")
    with serving([tmp_path / "words.hub"]) as url:
        page = new_page()
        show(page, url, "neighbors?item=en:1")
        more = Corpus.from_items([Item("more", "One more", "en", "more")], name="more")
        hubstore.append(more, tmp_path / "words.hub", model=str(folder / "model"), device="cpu")
        notice = page.get_by_text("The store has changed")
        for _ in range(20):  # a server that is busy answers from the old snapshot for a while
            page.get_by_label("Other languages only").click()
            settle(page)
            page.wait_for_timeout(500)
            if notice.is_visible():
                break
        expect(notice).to_be_visible()
        page.get_by_role("button", name="Reload").click()
        expect(page.locator("#store-facts")).to_contain_text(f"{ITEMS + 1} items")
        expect(page.get_by_text("The store has changed")).to_be_hidden()
        page.close()  # before its server ends, which it would ask


def test_errors_are_shown_in_place_with_the_servers_message_and_tried_again(new_page, url):
    page = new_page(refused=["404", "500", "ERR_FAILED"])
    show(page, url, "neighbors?store=words&item=nobody")
    expect(page.get_by_role("alert").first).to_contain_text("nobody")
    show(page, url, "curves?store=words&pair=en:xx")
    expect(page.get_by_role("alert")).to_contain_text("xx")
    page.route("**/projection*", lambda route: route.abort())
    show(page, url, "map?store=words")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    page.unroute("**/projection*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".plane")).to_be_visible()


def test_what_the_server_has_not_finished_in_time_is_asked_for_again(new_page, url):
    page = new_page(refused=["504"])
    late = ['{"error": {"kind": "RequestError", "message": "later"}}'] * 2

    def answer(route):
        if late:
            route.fulfill(status=504, body=late.pop(), content_type="application/json")
        else:
            route.fallback()

    page.route("**/curves?*", answer)
    show(page, url, "curves?store=words&pair=en:sw")
    expect(page.locator(".figure .scatterlayer .trace")).not_to_have_count(0)
    assert late == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_every_view_without_scrolling_sideways(new_page, url, scheme):
    page = new_page(PHONE, color_scheme=scheme, is_mobile=True, has_touch=True)
    for view in VIEWS:
        show(page, url, f"{view}?store=words&item=en:1")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], view
        assert page.locator("nav [aria-current]").is_visible()
    show(page, url, "map?store=words")
    page.locator(".plane").tap()


def test_a_map_is_drawn_again_when_the_graphics_card_was_lost(page, url):
    show(page, url, "map?store=words&layer=1")
    before = drawn(page)
    page.evaluate(
        "window.card = document.querySelector('.points').getContext('webgl2').getExtension('WEBGL_lose_context')"
    )
    page.evaluate("window.card.loseContext()")
    until(page, lambda: page.locator(".plane").screenshot() != before)
    page.evaluate("window.card.restoreContext()")
    until(page, lambda: page.locator(".plane").screenshot() == before)


def test_a_map_without_webgl_and_without_motion(new_page, url):
    page = new_page(reduced_motion="reduce")
    page.add_init_script(
        "HTMLCanvasElement.prototype.getContext = (old => function (kind, ...more) {"
        " return kind === 'webgl2' ? null : old.call(this, kind, ...more); })(HTMLCanvasElement.prototype.getContext)"
    )
    show(page, url, "map?store=words&layer=0")
    before = drawn(page)
    page.get_by_role("slider", name="Layer").press("End")
    until(page, lambda: page.locator(".plane").screenshot() != before)
    after = page.locator(".plane").screenshot()  # at once: nothing glides
    page.wait_for_timeout(400)
    assert page.locator(".plane").screenshot() == after


def test_the_page_of_the_api_shows_every_operation(page, url):
    page.goto(f"{url}/api/docs")
    expect(page.get_by_role("heading", name="neighbors")).to_be_visible()
    paths = page.evaluate("fetch('openapi.json').then(answer => answer.json()).then(api => Object.keys(api.paths))")
    assert len(paths) > 10
    shown = page.locator("summary code").all_text_contents()
    assert set(paths) <= set(shown)
    page.locator("summary", has_text="/api/v1/stores/{store}/items").first.click()
    expect(page.get_by_text("Part of the text or the id, in any case.")).to_be_visible()


def test_the_pages_work_below_a_path_of_another_application(page, folder):
    with served(folder / "words.hub", mounted="/hub") as running:
        page.goto(f"{running.url}/hub/api/docs")
        expect(page.get_by_role("heading", name="neighbors")).to_be_visible()
        show(page, f"{running.url}/hub", "overview?store=words")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.goto(f"{running.url}/hub/#/neighbors?store=words&item=en:1")
        expect(page.locator("body")).to_contain_text("en:1")
        page.goto("about:blank")


def test_the_scheme_is_chosen_and_kept(page, url):
    show(page, url, "curves?store=words")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    for words in ("light", "dark"):
        page.get_by_role("button", name="Color scheme").click()
        expect(page.get_by_role("button", name="Color scheme")).to_have_attribute(
            "aria-label", f"Color scheme: {words}"
        )
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    settle(page)
    assert page.evaluate(ground) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_of_text_contrast_as_wcag_aa_asks(new_page, url, scheme):
    page = new_page(color_scheme=scheme)
    show(page, url, "overview?store=words")
    value = "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
    colors = {name: page.evaluate(value, f"--{name}") for name in (
        "ink", "soft", "accent", "yes", "no", "paper", "panel", "accent-faint", "yes-faint", "no-faint", "on-accent"
    )}  # fmt: skip
    pairs = [(text, ground) for text in ("ink", "soft", "accent", "yes", "no") for ground in ("paper", "panel")]
    pairs += [("on-accent", "accent"), *((one, f"{one}-faint") for one in ("accent", "yes", "no"))]
    pairs += [("ink", "yes-faint"), ("soft", "yes-faint"), ("ink", "no-faint"), ("soft", "accent-faint")]
    poor = {pair: contrast(*(colors[one] for one in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}


def contrast(one, other):
    """The ratio of WCAG 2."""

    def luminance(color):
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


AXE = (Path(__file__).parent / "axe/axe.min.js").read_text(encoding="utf-8")
"""axe-core 4.14.1, as npm has it (MPL 2.0)."""

SERIOUS = """() => axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations
    .filter(one => ["serious", "critical"].includes(one.impact))
    .map(one => `${one.id}: ${one.nodes.slice(0, 3).map(node => node.html.slice(0, 200)).join(" | ")}`))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_view(new_page, url, scheme):
    page, found = new_page(color_scheme=scheme), {}
    states = [f"{view}?store=words&item=en:1" for view in VIEWS]
    states += ["overview?store=images", "neighbors?store=images&item=image:1", "map?store=images&item=image:1"]
    states += ["lens?store=words&item=en:1&tokens=every", "lens?store=words&by=text&text=Rain", "experiments?name=tiny"]
    for state in states:
        show(page, url, state)
        page.evaluate(AXE)
        found[state] = page.evaluate(SERIOUS)
    page.goto(f"{url}/api/docs")
    expect(page.get_by_role("heading", name="neighbors")).to_be_visible()
    page.evaluate(AXE)
    found["docs"] = page.evaluate(SERIOUS)
    assert {state: faults for state, faults in found.items() if faults} == {}


UNNAMED = """() => [...document.querySelectorAll('input, select, textarea, button, a')]
    .filter(one => one.checkVisibility()
        && !(one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim()))
    .map(one => one.outerHTML)"""
TWICE = """() => [...document.querySelectorAll('[id]')].map(one => one.id)
    .filter((id, place, ids) => ids.indexOf(id) < place)"""


def test_everything_that_can_be_used_has_a_name(page, url):
    for view in VIEWS:
        show(page, url, f"{view}?store=words&item=en:1")
        assert page.evaluate(UNNAMED) == [], view
        assert page.evaluate(TWICE) == [], view
        assert page.get_by_role("heading", level=1).count() == 1, view
