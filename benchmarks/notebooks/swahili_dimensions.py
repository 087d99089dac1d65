# %% [markdown]
# # Which dimensions are Swahili?
#
# A dimension of the residual stream is Swahili as far as its value tells Swahili sentences from those of 13 other
# languages. Dimensions are picked on the sentences of even lines and judged on those of odd lines, so that none is
# picked for what it is judged by. The store is that of `hub_curve.py`.

# %%
import numpy as np

import hubstore

corpus = hubstore.open_corpus("sample:ntrex", limit=40)
store = hubstore.extract(corpus, "multilingual-e5-small", "ntrex.hub", template="query: {text}")
items = store.items.to_pandas()
swahili = (items["language"] == "sw").to_numpy()
even = (items["concept"].astype(int) % 2 == 0).to_numpy()

# %% [markdown]
# How far apart the means are, in standard deviations within the groups; and how often a Swahili sentence has the larger
# value of a dimension than another sentence (the area under the ROC curve: .5 is chance, 0 and 1 are perfect).


# %%
def apart(states, mask):
    """Standardized difference of means of each dimension [width]."""
    own, rest = states[mask], states[~mask]
    within = np.sqrt((own.var(0) * len(own) + rest.var(0) * len(rest)) / len(states))
    return (own.mean(0) - rest.mean(0)) / within


def area(values, mask):
    """Share of pairs of a Swahili and another sentence of which the first has the larger value."""
    own, rest = values[mask], values[~mask]
    return float(((own[:, None] > rest).mean() + (own[:, None] >= rest).mean()) / 2)


found = []
for layer in store.layers:
    states = np.asarray(store.hidden(layer), np.float64)
    best = int(np.abs(picked := apart(states[even], swahili[even])).argmax())
    seen = area(states[~even, best] * np.sign(picked[best]), swahili[~even])
    found.append((layer, best, picked[best], seen))
    print(f"layer {layer:>2}: dimension {best:>3} is {picked[best]:+.1f} deviations off; on others area {seen:.2f}")

# %% [markdown]
# The same of labels that mean nothing, to see what picking the best of all dimensions gives by itself.

# %%
rng = np.random.default_rng(0)
by_chance = []
for layer in store.layers:
    states = np.asarray(store.hidden(layer), np.float64)
    shuffled = rng.permutation(swahili)
    best = int(np.abs(picked := apart(states[even], shuffled[even])).argmax())
    by_chance.append(area(states[~even, best] * np.sign(picked[best]), shuffled[~even]))
print(f"shuffled labels: area {np.mean(by_chance):.2f} on average, {max(by_chance):.2f} at most")
