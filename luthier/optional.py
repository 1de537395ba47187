"""Optional attributes of proposers, adapters and executors, with what holds where a part has none.

A user's own part needs the methods of its protocol and nothing else: whoever asks for more asks here.
"""

from __future__ import annotations

from typing import Any

DEFAULTS: dict[str, Any] = {
    # of a proposer
    "begins": None,  # begins(space, count, rng): it begins no others than those of which these are drawn
    "extendable": False,  # a finished study may go on under a larger budget
    "jobs": None,  # jobs of the whole study, where they are not its trials
    "learns_known": None,  # it learns from trials that it did not propose; False: it learns from none
    "parents": None,  # parents(history): it continues trainings
    "repeats": "never",  # a configuration may be proposed again: "never", "late" (once all were tried) or "always"
    "size": None,  # size(space): it visits so many fixed points
    "stop": None,  # stop(history, number): it ends running jobs
    "stopping": None,  # stopping(): its form for tasks that cannot be continued
    "stops_early": False,  # most of its trials end before their steps are spent
    "suggest": None,  # suggest(history): it has a model of the results
    # of an adapter
    "earlier": (),  # settings for which studies of earlier versions stand that leave them at their defaults
    "must_move": False,  # a space in which it moves nothing under any configuration is refused
    "phase": None,  # phase(tag): the adapter of a job
    "proposer": "random",  # what it comes with where it is given alone
    "response": None,  # response(program, config, state): it learns how the weights respond
    "shares_weights": False,  # it trains all options of the model's choices in one network
    "traceable": True,  # its step does not branch on values
    # of an executor
    "deaths": None,  # processes that may die under a job
    "device": None,  # where a TorchTask is trained
    "give_back": None,  # give_back(seconds): it hands unended jobs back
    "here": False,  # jobs are trained in this process
    "width": None,  # jobs that are trained as one stack
}


def optional(part: Any, name: str) -> Any:
    """Return an attribute of a part, or its default.

    Examples:
        >>> from luthier.propose import Random
        >>> optional(Random(), "parents"), optional(None, "repeats")
        (None, 'never')
    """
    return getattr(part, name, DEFAULTS[name])
