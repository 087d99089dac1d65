# %% [markdown]
# # A picture finds its name in Thai
#
# A bridge into frozen Gemma 3 270M (`scripts/fetch_models.py bridge-pictures`) was trained on English captions only.
# These drawings are of a vendor that it has not seen; that one lies near its Thai name was never asked of it.

# %%
from importlib.resources import files

import pyarrow.parquet as pq

import hubstore

COUNT = 40
CARRIER = "\nIn English this is called"
drawings = pq.read_table(str(files("hubstore.experiments") / "materials/emoji/concepts.parquet")).to_pylist()[:COUNT]
rows = [
    {
        "concept": drawing["concept"],
        "image": drawing["image"],
        "en": drawing["names"]["en"],
        "th": drawing["names"]["th"],
    }
    for drawing in drawings
]

# %% [markdown]
# A row is a drawing with its names as captions: three items of one concept.

# %%
corpus = hubstore.read_memory(rows, image="image", text={"en": "en", "th": "th"})
store = hubstore.extract(
    corpus,
    "bridge-pictures",
    "pictures.hub",
    poolings=("last",),
    layers=("16",),
    dtype="float32",
    template=f"{{text}}{CARRIER}",
    media_template=f"{{media}}{CARRIER}",
)
store

# %% [markdown]
# Pictures and languages lie in places of their own: with each one's mean removed, what is left is what is shown.

# %%
pictures = [item["id"] for item in store.items.to_pylist() if item["modality"] == "image"]
hits = store.search(ids=pictures, layers=[16], k=10, languages=["th"], centered=True).to_pandas()
asked = {item: store[item].concept for item in pictures}
hits["right"] = hits["concept"] == hits["query"].map(asked)
first = hits[hits["rank"] == 1]
print(first[["query", "text", "right"]].head(10).to_string(index=False))

# %%
at_1, at_10 = first["right"].mean(), hits.groupby("query")["right"].any().mean()
print(
    f"{len(pictures)} drawings: recall@1 {at_1:.2f} (chance {1 / COUNT:.2f}), recall@10 {at_10:.2f} ({10 / COUNT:.2f})"
)
