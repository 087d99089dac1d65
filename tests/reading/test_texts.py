"""Token ids and batches by the tokenizers library alone: those of transformers, whatever the tokenizer."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from hubstore.forward import Batching, collate, tokenize
from hubstore.forward.members import batch_members
from hubstore.models import wrap_model
from hubstore.models.special import tokenizing_part
from hubstore.reading.layout import TextItems, lay_out, lay_out_batches
from hubstore.reading.texts import TextReader, TokenizedTexts
from tests.tiny_models import tiny_model, tiny_tokenizer

TEXTS = (
    "A shark bit a teenager.",
    "Un tiburón mordió a un adolescente.",
    "",
    " ",
    "  two  spaces\tand a tab\n",
    "<s>hello",
    "hello</s>",
    "</s>in<s>side<pad>",
    "日本語のテキスト 🦈🦈",
    "e\u0301 \u00e9 \ufb01",
    "long " * 90,
    "x" * 500,
)


def wordpiece():
    vocabulary = {
        word: i
        for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdeghiknorstux", "##a", "##s", "shark"])
    }
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding()  # what is saved in a tokenizer's file is of no effect
    tokenizer.enable_truncation(7)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )


def unigram():
    pieces = [
        ("<unk>", 0.0),
        ("<s>", 0.0),
        ("</s>", 0.0),
        *((piece, -float(i)) for i, piece in enumerate("▁ae▁shartkbi.nog", 1)),
    ]
    tokenizer = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", truncation_side="left"
    )


TOKENIZERS = {
    "encoder": lambda: tiny_tokenizer("encoder"),
    "bos": lambda: tiny_tokenizer("bos"),
    "bare": lambda: tiny_tokenizer("bare", pad=False),
    "special tokens as text": lambda: _splitting(tiny_tokenizer("bos")),
    "wordpiece": wordpiece,
    "unigram, cut at the left": unigram,
    "python": transformers.ByT5Tokenizer,
}


def _splitting(tokenizer):
    tokenizer.split_special_tokens = True
    return tokenizer


def reader_of(tokenizer, template="{text}", part=tokenizing_part) -> TextReader:
    from hubstore.reading.texts import Added

    side = tokenizer.truncation_side
    added = Added.by(tokenizer)
    return TextReader(part(tokenizer), "x", 32, added, None, True, None, side, tokenizer.split_special_tokens, template)


@pytest.mark.parametrize("template", ["{text}", "query: {text}", " <s>{text}</s>"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_those_of_transformers_here_and_in_another_process(name, template):
    tokenizer = TOKENIZERS[name]()
    fast, plain = reader_of(tokenizer, template), reader_of(tokenizer, template, part=lambda whole: whole)
    assert isinstance(fast.tokenizer, Tokenizer) == (name != "python")
    wanted = plain.read(TEXTS)
    assert wanted.cut.any()
    for reader in (fast, pickle.loads(pickle.dumps(fast))):
        found = reader.read(TEXTS)
        assert np.array_equal(found.ids, wanted.ids)
        assert np.array_equal(found.lengths, wanted.lengths)
        assert np.array_equal(found.cut, wanted.cut)
        assert found.problems == wanted.problems


def test_a_tokenizer_that_does_more_than_the_library_is_asked_itself():
    class Doing(transformers.PreTrainedTokenizerFast):
        def _encode_plus(self, *arguments, **options):
            return super()._encode_plus(*arguments, **options)

    tokenizer = Doing(tokenizer_object=tiny_tokenizer("bos").backend_tokenizer)
    assert tokenizing_part(tokenizer) is tokenizer


def test_texts_in_several_turns_are_those_in_one():
    reader = reader_of(tiny_tokenizer("bos"))
    whole = reader.read(TEXTS)
    joined = TokenizedTexts.concatenated([reader.read(TEXTS[:5]), reader.read(TEXTS[5:5]), reader.read(TEXTS[5:])])
    assert np.array_equal(joined.ids, whole.ids)
    assert joined.problems == whole.problems
    assert whole.problems.keys() == {2}
    assert np.array_equal(joined.take(np.array([4, 0])), np.concatenate([whole.split()[4], whole.split()[0]]))


@pytest.mark.parametrize(
    "batching",
    [
        Batching("packed", first_position=2),
        Batching("padded"),
        Batching("padded", padding="left", explicit_positions=True),
        Batching("single"),
    ],
)
@pytest.mark.parametrize("family", ["llama", "xlm-roberta"])
def test_batches_that_are_laid_out_together_are_those_laid_out_alone(family, batching):
    model = tiny_model(family)
    token_ids = [ids for ids in tokenize(model, [*TEXTS, *TEXTS[:2]], 64, problems={})[0] if ids]
    members = list(batch_members(np.array([len(ids) for ids in token_ids], np.int32), 100, batching))
    order = np.concatenate(members)
    items = TextItems.of([token_ids[i] for i in order])
    items = TextItems(items.ids, items.lengths, order, 1000 * order)
    counts = np.array([len(member) for member in members])
    together = lay_out_batches(model.text_layout, items, counts, batching, 100)
    for laid, member in zip(together, members, strict=True):
        alone = collate(model, [token_ids[i] for i in member], batching, 100)
        starts = [np.arange(1000 * i, 1000 * i + len(token_ids[i])) for i in member]
        placed = alone.placed(member, np.concatenate(starts))
        assert laid.arrays.keys() == placed.arrays.keys()
        for name, array in laid.arrays.items():
            assert np.array_equal(array, placed.arrays[name]), name
        assert laid.padded_tokens == alone.padded_tokens
        again = lay_out(model.text_layout, laid.read(), batching, 100)
        assert np.array_equal(again.buffer, laid.buffer)
        chosen = np.array([len(member) - 1])
        part = laid.read().part(chosen)
        assert part.ids.tolist() == token_ids[member[-1]]
        assert part.places.tolist() == [member[-1]]
        assert part.token_starts.tolist() == [1000 * member[-1]]


def test_packed_batches_take_the_longest_item_that_fits_one_by_one():
    random = np.random.default_rng(0)
    for most, count in ((40, 200), (3, 50), (300, 400)):
        lengths = random.integers(1, most + 1, count).astype(np.int32)
        for batch_tokens in (16, 100, 257):
            found = [member.tolist() for member in batch_members(lengths, batch_tokens, Batching("packed"))]
            assert found == _one_by_one(lengths, batch_tokens)


def _one_by_one(lengths, batch_tokens):
    """The plain reference: the longest item that is left, and while there is room the longest that fits."""
    left = np.argsort(lengths, kind="stable").tolist()
    batches = []
    while left:
        members = [left.pop()]
        room = batch_tokens - lengths[members[0]]
        while fitting := [place for place, item in enumerate(left) if lengths[item] <= room]:
            members.append(left.pop(fitting[-1]))
            room -= lengths[members[-1]]
        batches.append(members)
    return batches


def test_a_model_whose_tokenizer_is_written_in_python_is_read():
    tokenizer = transformers.ByT5Tokenizer(extra_ids=0)
    config = transformers.LlamaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    model = wrap_model(transformers.AutoModel.from_config(config), tokenizer, name="bytes")
    assert tokenize(model, ["ab"], 64)[0] == [tokenizer("ab")["input_ids"]]
