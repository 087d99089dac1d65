"""Every command and every line of Python in the README, and in the pages that it names, runs as it is printed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import transformers
import typer
from typer.testing import CliRunner

from benchmarks.seaweed import SeaweedFS
from hubstore.cli import app
from hubstore.corpus import read_sample
from hubstore.extraction import Settings, extract
from hubstore.models import load_model
from tests.serve.servers import served
from tests.store.seaweed import enter, needs_weed
from tests.tiny_media import FAMILIES, random_image
from tests.tiny_models import VOCABULARY, save_tiny_language_model, tiny_tokenizer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LINKED = re.findall(r"\]\(([\w/]+/README\.md)\)", README)
PAGES = {page: (ROOT / page).read_text() for page in dict.fromkeys(["README.md", *LINKED])}
"""The README and the pages that it sends a reader to, by path."""

BLOCKS = [block for text in PAGES.values() for block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)]
COMMANDS = [line for _, block in BLOCKS for line in block.splitlines() if line.startswith("hubstore ")]
SERVED = "http://127.0.0.1:8000"
HUB_ID = "intfloat/multilingual-e5-small"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the README has it: the demo's store, of a random model with as many layers, and files to read."""
    folder = tmp_path_factory.mktemp("readme")
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=12,
        num_attention_heads=2,
        max_position_embeddings=130,
        pad_token_id=1,
    )
    transformers.AutoModel.from_config(config).save_pretrained(folder / "model")
    tiny_tokenizer("encoder").save_pretrained(folder / "model")
    model = load_model(str(folder / "model"), device="cpu")
    extract(read_sample("ntrex", limit=15), model, folder / "demo.hub", Settings(template="query: {text}"))
    save_tiny_language_model("llama", folder / "causal", depth=10)
    save_tiny_llava(folder)
    (folder / "a.txt").write_text("one\ntwo\n")
    (folder / "b.txt").write_text("一\n二\n")
    (folder / "table.csv").write_text("english,german\none,eins\ntwo,zwei\n")
    item = re.search(r"`(\{\"id\": .*?\})`", README, re.DOTALL)
    assert item is not None
    (folder / "items.jsonl").write_text(json.dumps(json.loads(item[1].replace("\n", " "))) + "\n")
    (folder / "more.jsonl").write_text('{"id": "more", "text": "more", "language": "en"}\n')
    return folder


def save_tiny_llava(folder):
    """A model of images, and images with a table of captions."""
    torch.manual_seed(0)
    loaded, processor = FAMILIES["llava"].make()
    transformers.LlavaForConditionalGeneration(loaded.config).save_pretrained(folder / "llava")
    processor.save_pretrained(folder / "llava")
    (folder / "images").mkdir()
    for number in range(3):
        random_image(number).save(folder / f"images/{number}.png")
    random_image(1).save(folder / "cat.png")
    rows = [{"file": f"images/{number}.png", "caption": f"image {number}"} for number in range(3)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.fixture
def bucket(tmp_path, own_cache, monkeypatch):
    """An S3 server with the bucket that the README writes to."""
    server = SeaweedFS(tmp_path / "seaweed").start()
    enter(server, monkeypatch)
    yield
    server.kill()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_pages_is_one_that_the_command_line_takes(command):
    name, *words = shlex.split(command.split(" # ")[0])[1:]
    group = typer.main.get_command(app)
    with group.make_context("hubstore", [name]) as above:
        group.get_command(above, name).make_context(name, words, parent=above).close()


@pytest.mark.slow
@pytest.mark.ray
@needs_weed
def test_every_command_of_the_readme_runs_as_printed(folder, bucket, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the cluster that is started here, as of this process
    monkeypatch.setenv("RAY_ADDRESS", "local")  # and not whatever runs on this machine
    assert len(COMMANDS) >= 20
    with served(folder / "demo.hub") as server:
        run_commands(folder, server.url)


def run_commands(folder, url):
    """Each command as printed, where a server answers at the address that it would have."""
    for command in COMMANDS:
        words = [word.replace(SERVED, url) for word in shlex.split(command.split(" # ")[0])[1:]]
        if words[0] == "serve":
            assert words[1:] == ["demo.hub"]  # it runs: see above
            continue
        if "mine.hub" in words and words[0] == "extract":
            words[words.index("mine.hub")] = f"mine-{len(list(folder.glob('mine*')))}.hub"
        for printed, there in (("mine.hub", "mine-0.hub"), ("MODEL", "model"), ("CAUSAL", "causal"), ("VLM", "llava")):
            words = [word.replace(printed, there) for word in words]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (command, result.output, result.exception)


def test_every_line_of_python_in_the_readme_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    if not (folder / "words.hub").exists():  # the store of words is one that a command of the pages makes
        (command,) = (line for line in COMMANDS if line.startswith("hubstore extract") and "words.hub" in line)
        made = CliRunner().invoke(app, shlex.split(command.replace("CAUSAL", "causal"))[1:])
        assert made.exit_code == 0, made.output
    (block,) = (block for language, block in BLOCKS if language == "python")
    assert HUB_ID in block
    exec(compile(block.replace(HUB_ID, "model"), "README.md", "exec"), {})
    assert (folder / "demo-report/report.html").exists()


@pytest.mark.parametrize("page", PAGES)
def test_the_scripts_folders_and_pages_that_a_page_names_are_there(page):
    for path in re.findall(r"`((?:hubstore|scripts|benchmarks)/[\w/.]+)`", PAGES[page]):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", PAGES[page]):
        assert (ROOT / page).parent.joinpath(path).exists(), path


def test_the_readme_is_read_in_five_minutes():
    assert len(README.splitlines()) <= 200
