"""The zoo: 105 networks, a list that was fixed before any of them was tried, and two more that draw in every way."""

from zoo import attention, convolutional, dense, generative, inside, packages, recurrent, sets  # noqa: F401
from zoo.entry import ZOO as ZOO

MORE = ("RReLU, AlphaDropout, feature dropout", "Beta, Gamma, Poisson, Categorical draws")
