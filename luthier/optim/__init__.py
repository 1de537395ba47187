"""Stacked optimizers and learning-rate schedules, pure functions over tensors with the members axis first.

May import: errors; of other packages torch alone.

Beside them, :class:`HypergradientDescent` and its published forms SGDHD and AdamHD: for any training loop of torch.
"""

from luthier.optim.adam import Adam as Adam
from luthier.optim.adam import adam as adam
from luthier.optim.adam import adamw as adamw
from luthier.optim.hypergradient import SGDHD as SGDHD
from luthier.optim.hypergradient import AdamHD as AdamHD
from luthier.optim.hypergradient import HypergradientDescent as HypergradientDescent
from luthier.optim.schedules import Cosine as Cosine
from luthier.optim.schedules import StepDecay as StepDecay
from luthier.optim.schedules import Warmup as Warmup
from luthier.optim.sgd import SGD as SGD
from luthier.optim.sgd import sgd as sgd
from luthier.optim.switch import Switch as Switch
