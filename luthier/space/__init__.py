"""The search space: named domains with conditions, sampling, a codec to the unit cube, checks, moves and JSON.

May import: errors, seeds.
"""

from luthier.space.codec import Column as Column
from luthier.space.codec import Conditions as Conditions
from luthier.space.codec import Config as Config
from luthier.space.domains import Choice as Choice
from luthier.space.domains import Domain as Domain
from luthier.space.domains import Float as Float
from luthier.space.domains import Int as Int
from luthier.space.domains import When as When
from luthier.space.space import Space as Space
from luthier.space.values import Option as Option
