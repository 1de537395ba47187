"""Hypergradients: the derivative of the validation loss by the hyperparameters, response of the weights included.

May import: optim; of other packages torch alone.

Free functions of one signature over plain tensors and plain loss functions; nothing else of luthier is needed::

    method(Problem(train_loss, valid_loss, params, hyper, train_batches, valid_batch), **settings) -> Hypergradient

``params`` and ``hyper`` are dictionaries of tensors, a loss is ``(params, hyper, batch) -> number``; `functional` makes
both losses of an unchanged nn.Module. Nothing that is handed in is changed.

==================== =========================================== ==================== ========================
method               ∂²L_T/∂w² is                                costs (gradients)    for
==================== =========================================== ==================== ========================
`implicit`           inverted by conjugate gradients or Neumann  4 + 1.5 an iteration the default near a minimum
`unrolled`           not needed: goes back through the steps     2.5 a step           lr, momentum, few steps
`identity`           the identity (T1-T2)                        4                    the cheapest direction
`finite_difference`  the identity, no second derivative at all   4                    any module
`exact`              formed and solved                           1.5 a weight         tests, tiny problems
==================== =========================================== ==================== ========================

**Stacks.** If the losses return (members,) instead of one number, every tensor of ``params`` and ``hyper`` has the
members axis first, members do not mix, and every method gives each member what it would get alone: step lengths,
stopping and diagnostics are per member. A member that is not finite is marked in `Hypergradient.finite` and leaves the
others alone. Conjugate gradients mask the members that are done and go on while any is not.
``Problem(…, traced=True)`` leaves out every decision on values, so that make_fx can record the call.
"""

from luthier.response.check import Check, check
from luthier.response.dense import exact
from luthier.response.functional import Functional, functional
from luthier.response.implicit import finite_difference, identity, implicit
from luthier.response.optimizers import FunctionalOptimizer, Stock
from luthier.response.problem import Problem
from luthier.response.result import Hypergradient, NonFiniteError, ResponseWarning
from luthier.response.unrolled import unrolled

__all__ = [
    "Check",
    "Functional",
    "FunctionalOptimizer",
    "Hypergradient",
    "NonFiniteError",
    "Problem",
    "ResponseWarning",
    "Stock",
    "check",
    "exact",
    "finite_difference",
    "functional",
    "identity",
    "implicit",
    "unrolled",
]
