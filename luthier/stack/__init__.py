"""A population as one tensor program: a member's function run for many members, noise, and traced steps.

May import: errors, nn; of other packages torch alone.
"""

from luthier.stack.noise import Noise

__all__ = ["Noise"]
