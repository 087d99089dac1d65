# %% [markdown]
# # A hub curve in ten lines
#
# Where do translations lie nearer one another than other sentences do? The model is multilingual-e5-small
# (`scripts/fetch_models.py multilingual-e5-small`), the corpus news sentences in 14 languages that ship with hubstore.

# %%
import hubstore

corpus = hubstore.open_corpus("sample:ntrex", limit=40)
store = hubstore.extract(corpus, "multilingual-e5-small", "ntrex.hub", template="query: {text}")
store

# %% [markdown]
# Matched less baseline (Eq. 1 of Wu et al., 2025), each language's mean removed: the mean over English with each other
# language. The band is a 95 % bootstrap interval over sentences.

# %%
axes = store.plot.similarity(pivot="en")
axes.figure.savefig("hub-curve.png")

# %%
differences = dict(zip(store.layers, axes.get_lines()[0].get_ydata(), strict=True))
best = max(differences, key=differences.__getitem__)
print(f"translations stand out most at layer {best}: {differences[best]:.3f}, at the embeddings {differences['0']:.3f}")
