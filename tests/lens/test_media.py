"""A lens on images and audio: from a store by the places of their tokens, and of one given now."""

import torch

from hubstore.corpus import Corpus, Item, Media
from hubstore.extraction import Settings, extract
from hubstore.lens import Lens, lens_summary, read_media, read_store
from hubstore.models import wrap_model
from hubstore.store import StoreReader
from tests.extraction.test_media import png
from tests.tiny_media import FAMILIES, random_image


def llava(head):
    """A tiny LLaVA, with its head where asked; the same weights."""
    import transformers

    torch.manual_seed(0)
    loaded, processor = FAMILIES["llava"].make()
    whole = transformers.LlavaForConditionalGeneration(loaded.config)
    whole.model.load_state_dict(loaded.state_dict())
    whole.tie_weights()
    torch.nn.init.normal_(whole.lm_head.weight, std=0.2)
    return wrap_model(
        whole.model, processor.tokenizer, name="tiny-llava", processor=processor, language_model=whole if head else None
    )


def images(count=3):
    items = [Item(f"p{i}", "", "zxx", f"c{i}", "image", Media(f"box!{i}", png(random_image(i)))) for i in range(count)]
    return [*items, *(Item(f"t{i}", "It rained.", "en", f"c{i}") for i in range(count))]


def test_stored_tokens_of_images_read_as_those_given_now(tmp_path):
    settings = Settings(poolings=("tokens",), dtype="float32", media_template="{media} so")
    model = llava(head=True)
    extract(Corpus.from_items(images()), model, tmp_path / "x.hub", settings)
    store = StoreReader(tmp_path / "x.hub")
    lens = Lens.of_model(model)
    stored = read_store(store, lens, ids=["p1"], layers=["2"], targets=[])
    now = read_media(llava(head=True), images()[1:2], template="{media} so", layers=["2"])
    assert stored["top_ids"].to_pylist() == now["top_ids"].to_pylist()
    pieces = stored["piece"].to_pylist()
    assert pieces[:3] == [None, "image 0", "image 1"]  # BOS stands before them
    assert pieces.count("image 15") == 1
    given = now["piece"].to_pylist()
    assert given[0] == "<s>"
    assert given[1:17] == [f"image {number}" for number in range(16)]
    assert None not in given


def test_the_summary_of_a_partition_of_images_reads_their_own_tokens(tmp_path):
    model = llava(head=True)
    alone = {}
    for template in ("{media}", "{media} and a longer prompt"):
        path = tmp_path / f"{len(template)}.hub"
        settings = Settings(poolings=("tokens",), layers=("1",), dtype="float32", media_template=template)
        extract(Corpus.from_items(images()), model, path, settings)
        summary = lens_summary(StoreReader(path), Lens.of_model(model), bootstrap=0).to_pylist()
        alone[template] = {row["metric"]: row for row in summary if row["x"] == "image/zxx"}
        model = llava(head=True)
    first, second = alone.values()
    # All three images' tokens come before the rest of the prompt, so that it cannot move them.
    assert first["entropy"]["n"] == 3
    assert abs(first["entropy"]["value"] - second["entropy"]["value"]) < 1e-4
