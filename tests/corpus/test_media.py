import ast
import io
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import EpsImagePlugin, Image

import hubstore
from hubstore.corpus.item import Media
from hubstore.errors import CorpusError, MissingDependencyError
from hubstore.media import decode as decoding
from hubstore.media.decode import media_bytes, open_audio, open_image

RATE = 16_000
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def image_media(image, kind="PNG", **options):
    return Media("image", encoded(image, kind, **options))


def wave(samples, rate=RATE, kind="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def tone(hertz=440, rate=RATE, seconds=0.5):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def corners():
    """Red and green above, blue and white below."""
    image = Image.new("RGB", (2, 2))
    image.putdata([RED, GREEN, BLUE, WHITE])
    return image.resize((64, 32), Image.Resampling.NEAREST)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "JPEG", "WEBP"])
def test_an_image_of_any_kind_is_decoded_to_rgb(kind):
    image = open_image(image_media(corners(), kind))
    assert (image.mode, image.size) == ("RGB", (64, 32))
    for place, color in zip(((8, 8), (56, 8), (8, 24), (56, 24)), (RED, GREEN, BLUE, WHITE), strict=True):
        assert np.allclose(image.getpixel(place), color, atol=12)


@pytest.mark.parametrize(
    ("orientation", "upper_left"), [(1, RED), (2, GREEN), (3, WHITE), (4, BLUE), (5, RED), (6, BLUE), (8, GREEN)]
)
def test_an_image_is_turned_as_its_orientation_says(orientation, upper_left):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(image_media(corners(), exif=exif))
    assert image.size == ((32, 64) if orientation > 4 else (64, 32))
    assert image.getpixel((2, 2)) == upper_left


def test_what_is_transparent_is_laid_over_white():
    rgba = Image.new("RGBA", (2, 1))
    rgba.putdata([(255, 0, 0, 0), (255, 0, 0, 128)])
    gray = Image.new("LA", (2, 1))
    gray.putdata([(0, 0), (0, 255)])
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    keyed = Image.new("RGB", (2, 1))
    keyed.putdata([RED, BLUE])
    shown = {
        "rgba": (open_image(image_media(rgba)), [WHITE, (255, 127, 127)]),
        "gray": (open_image(image_media(gray)), [WHITE, (0, 0, 0)]),
        "palette": (open_image(image_media(palette, transparency=0)), [WHITE, BLUE]),
        "gif": (open_image(image_media(palette, "GIF", transparency=0)), [WHITE, BLUE]),
        "key": (open_image(image_media(keyed, transparency=RED)), [WHITE, BLUE]),
    }
    for image, pixels in shown.values():
        assert [image.getpixel((x, 0)) for x in range(2)] == pixels


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, BLUE)]
    image = open_image(image_media(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.allclose(image.getpixel((4, 4)), RED, atol=3)


def test_more_than_eight_bits_are_scaled_to_eight():
    ramp = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert list(np.asarray(open_image(image_media(Image.fromarray(ramp))))[0, :, 0]) == [0, 1, 128, 255]
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert list(np.asarray(open_image(image_media(floats, "TIFF")))[0, :, 0]) == [0, 128, 255]


def test_an_image_for_print_is_decoded_to_rgb():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.allclose(open_image(image_media(red, "JPEG")).getpixel((4, 4)), RED, atol=3)


def test_an_image_that_would_be_too_large_is_refused_before_it_is_decoded():
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for side in (10_000, 60_000):  # what Pillow warns of, and what it refuses by itself
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
        with pytest.raises(CorpusError, match=r"^bomb\.png: .*(exceeds limit|safe to decode).*; make the image"):
            open_image(Media("bomb.png", bomb))


@pytest.mark.parametrize("data", [b"", b"no image", encoded(corners())[:60], encoded(corners(), "JPEG")[:400]])
def test_an_image_that_is_none_or_cut_off_is_named(data):
    with pytest.raises(CorpusError, match=r"^bad\.png: is no image that can be read: [^<>]*; check that the file"):
        open_image(Media("bad.png", data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_damaged_image_is_decoded_or_refused_and_nothing_else(kind):
    data = encoded(Image.effect_noise((32, 32), 50), kind)
    for damaged in damage(data, 200):
        with suppress(CorpusError):
            assert open_image(Media("bad", damaged)).mode == "RGB"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of soundfile, which seeks where told
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF"])
def test_a_damaged_audio_clip_is_decoded_or_refused_and_nothing_else(kind):
    for damaged in damage(wave(tone(), kind=kind), 60):
        with suppress(CorpusError):
            audio = open_audio(Media("bad", damaged), RATE)
            assert audio.ndim == 1
            assert len(audio)
            assert np.isfinite(audio).all()


def damage(data, times):
    random = np.random.default_rng(0)
    for _ in range(times):
        bad = bytearray(data)
        for _ in range(random.choice([1, 4])):
            bad[random.integers(random.choice([min(100, len(data)), len(data)]))] = random.integers(256)
        yield bytes(bad[: random.choice([len(bad), random.integers(len(bad))], p=[0.8, 0.2])])


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)]
)
def test_an_audio_clip_of_any_kind_is_decoded_to_float32(kind, subtype):
    samples = open_audio(Media("audio", wave(tone(), kind=kind, subtype=subtype)), RATE)
    assert samples.dtype == np.float32
    assert abs(len(samples) - RATE // 2) <= RATE // 10  # an MP3 may have padding
    middle = samples[2000:6000] * np.hanning(4000)
    assert np.argmax(np.abs(np.fft.rfft(middle))) == pytest.approx(440 * 4000 / RATE, abs=1)
    assert np.abs(middle).max() == pytest.approx(0.5, rel=0.1)


def test_channels_are_averaged():
    one, other = tone(440), tone(660)
    both = wave(np.stack([one, other], axis=1), subtype="FLOAT")
    assert np.allclose(open_audio(Media("audio", both), RATE), (one + other) / 2, atol=1e-6)


@pytest.mark.parametrize("own", [8_000, 11_025, 44_100, 48_000])
def test_an_audio_clip_is_resampled_and_keeps_its_pitch(own):
    samples = open_audio(Media("audio", wave(tone(rate=own), own, subtype="FLOAT")), RATE)
    assert abs(len(samples) - RATE // 2) <= 1
    inside = slice(500, 7500)  # the ends ring
    assert np.allclose(samples[inside], tone()[inside], atol=1e-3)


def test_a_frequency_that_the_new_rate_cannot_hold_is_gone():
    samples = open_audio(Media("audio", wave(tone(15_000, 44_100), 44_100, subtype="FLOAT")), RATE)
    assert np.abs(samples[500:-500]).max() < 1e-3


def test_an_audio_clip_without_samples_or_with_infinite_ones_is_named():
    with pytest.raises(CorpusError, match=r"^a\.wav: the audio has no samples"):
        open_audio(Media("a.wav", wave(np.zeros(0))), RATE)
    bad = tone()
    bad[7] = np.inf
    with pytest.raises(CorpusError, match=r"^a\.wav: the audio has samples that are not finite"):
        open_audio(Media("a.wav", wave(bad, subtype="FLOAT")), RATE)


@pytest.mark.parametrize("data", [b"", b"no audio", encoded(Image.new("RGB", (4, 4)))])
def test_an_audio_clip_that_is_none_is_named(data):
    with pytest.raises(CorpusError, match=r"^a\.wav: is no audio that can be read: [^<>]*; check that the file"):
        open_audio(Media("a.wav", data), RATE)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_an_audio_clip_that_is_cut_off_is_named(kind):
    data = wave(tone(), kind=kind)
    with pytest.raises(CorpusError, match=r"^a\.wav: .*check that the file is whole$"):
        open_audio(Media("a.wav", data[: len(data) // 2]), RATE)


def test_a_wave_written_as_a_stream_knows_no_length_and_is_whole():
    data = bytearray(wave(tone()))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert len(open_audio(Media("a.wav", bytes(data)), RATE)) == RATE // 2


def test_bytes_come_from_the_item_its_file_or_a_member_of_an_archive(tmp_path):
    data = encoded(corners())
    (tmp_path / "a!b.png").write_bytes(data)  # an exclamation mark in a name is no archive's
    assert media_bytes(Media("x", b"own")) == b"own"
    assert media_bytes(Media(str(tmp_path / "a!b.png"))) == data
    for name, mode in (("x.tar", "w"), ("x.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:
            tar.add(tmp_path / "a!b.png", "deep/a!b.png")
        assert media_bytes(Media(f"{tmp_path / name}!deep/a!b.png")) == data
        with pytest.raises(CorpusError, match=f"{name}: has no member 'other.png'"):
            media_bytes(Media(f"{tmp_path / name}!other.png"))


def test_a_file_that_is_not_there_or_is_a_folder_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"a\.png: there is no such file; check the path"):
        open_image(Media(str(tmp_path / "a.png")))
    with pytest.raises(CorpusError, match=r"a\.tar!b\.png: there is no such file"):
        open_image(Media(str(tmp_path / "a.tar!b.png")))
    with pytest.raises(CorpusError, match=r"cannot be read: .*check that it is a file"):
        open_image(Media(str(tmp_path)))
    with pytest.raises(CorpusError, match=r"cannot be read: .*null"):
        open_image(Media("a\0b.png"))


@pytest.mark.parametrize("package", ["PIL", "soundfile", "soxr"])
def test_a_package_that_is_not_there_is_answered_with_what_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'hubstore\[media\]'"):
        open_image(Media("a")) if package == "PIL" else open_audio(Media("a"), RATE)


def test_decoding_is_imported_only_where_something_is_decoded():
    script = "import sys, hubstore.media.decode, hubstore.media.previews; print({'PIL', 'soundfile'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("data", [None, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"])
def test_a_pointer_of_git_lfs_in_the_place_of_a_medium_is_named_as_such(tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    for decode in (open_image, lambda media: open_audio(media, 8000)):
        with pytest.raises(CorpusError, match=r"a\.png: is a pointer of Git LFS, and not the file itself"):
            decode(Media(str(path), data))


def flac(samples, channels=8, rate=8000):
    """A FLAC of silence: about 4 kB for each million of samples."""
    buffer, block = io.BytesIO(), np.zeros((1 << 16, channels), np.int16)
    with soundfile.SoundFile(buffer, "w", rate, channels, format="FLAC", subtype="PCM_16") as file:
        for _ in range(-(-samples // len(block))):
            file.write(block)
    return buffer.getvalue()


def wav_header(rate, samples, channels=1):
    """A WAV of 16 bits."""
    size = samples * channels * 2
    shape = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16)
    return b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + shape + b"data" + struct.pack("<I", size)


def test_only_decoders_that_start_no_program_open_an_image(monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda *arguments, **_: started.append(arguments))
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "/usr/bin/true")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nnewpath\nshowpage\n%%EOF\n"
    with pytest.raises(CorpusError, match=r"x\.png: is no image that can be read: it is none of PNG, JPEG"):
        open_image(Media("x.png", eps))
    assert not started


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_an_image_of_each_format_is_read_whatever_it_is_called(kind):
    assert open_image(image_media(Image.new("RGB", (16, 16), RED), kind)).size == (16, 16)


@pytest.mark.parametrize("rate", [1, 2, 7])
def test_a_recording_whose_rate_makes_it_endless_is_one_clear_error(rate):
    with pytest.raises(CorpusError, match=rf"slow\.wav: the audio, of {rate} Hz, .*safe to decode; cut it"):
        open_audio(Media("slow.wav", wav_header(rate, 1_000_000) + bytes(2_000_000)), RATE)


def test_a_recording_of_which_nothing_is_left_at_the_rate_is_one_clear_error():
    with pytest.raises(CorpusError, match=r"fast\.wav: the audio has no samples at 16,000 Hz, of 400,000,000 Hz"):
        open_audio(Media("fast.wav", wav_header(400_000_000, 5) + bytes(10)), RATE)


def test_more_samples_than_are_safe_are_refused_before_any_is_decoded(monkeypatch):
    decoded = []
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: decoded.append(1))
    monkeypatch.setattr(decoding, "MOST_SAMPLES", 1 << 18)
    with pytest.raises(CorpusError, match=r"long\.flac: the audio, of 16,000 Hz, has 327,680 samples .* 262,144 that"):
        open_audio(Media("long.flac", flac(5 << 16, 1, RATE)), RATE)
    assert not decoded


def test_channels_are_mixed_as_they_are_decoded():
    data = flac(1 << 20)
    open_audio(Media("short", wave(tone())), RATE)  # imports and buffers of the library
    tracemalloc.start()
    samples = open_audio(Media("wide.flac", data), 8000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples) == 1 << 20
    assert most < 4 * len(samples) + (12 << 20), "eight channels would take 32 MiB"


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_mixing_by_blocks_gives_what_mixing_at_once_gives(channels, monkeypatch):
    samples = np.random.default_rng(0).uniform(-1, 1, (5000, channels)).astype(np.float32)
    media = Media("x.wav", wave(samples, subtype="FLOAT"))
    whole = samples[:, 0] if channels == 1 else samples.mean(axis=1, dtype=np.float32)
    monkeypatch.setattr(decoding, "_BLOCK", 700)
    np.testing.assert_array_equal(open_audio(media, RATE), whole)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_scaled_alike_whatever_the_rows_at_a_time(mode, monkeypatch):
    values = np.random.default_rng(1).integers(0, 60_000, (37, 5))
    image = Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    assert image.mode == mode
    media = image_media(image, "TIFF")
    whole = np.asarray(open_image(media))
    monkeypatch.setattr(decoding, "_ROWS", 4)
    np.testing.assert_array_equal(np.asarray(open_image(media)), whole)


def test_every_image_is_opened_by_named_decoders():
    root = Path(hubstore.__file__).parents[1]
    opened = [
        ast.unparse(node)
        for folder in ("hubstore", "scripts", "benchmarks")
        for path in sorted((root / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open"
    ]
    assert len(opened) > 1
    assert all("formats=" in call for call in opened)
