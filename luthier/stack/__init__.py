"""A population as one tensor program: models rewritten for many members, noise, and traced steps."""

from luthier.stack.noise import Noise
from luthier.stack.rewrite import StackedModule, stack_module, stack_parameters, unstack_into

__all__ = ["Noise", "StackedModule", "stack_module", "stack_parameters", "unstack_into"]
