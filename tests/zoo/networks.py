"""The zoo: 105 networks, a list that was fixed before any of them was tried, and two more that draw in every way."""

from zoo import attention, convolutional, dense, generative, inside, packages, recurrent, sets  # noqa: F401
from zoo.entry import ZOO as ENTRIES

CHAPTERS = [
    "dense",
    "convolutional",
    "recurrent",
    "attention",
    "graphs, sets",
    "text, tables",
    "generative, control",
    "habits",
    "public packages",
]
ZOO = dict(sorted(ENTRIES.items(), key=lambda named: CHAPTERS.index(named[1].kind)))
MORE = ("RReLU, AlphaDropout, feature dropout", "Beta, Gamma, Poisson, Categorical draws")
