"""A store in the browser, live and only to be read: the studies, a page for each, and a page for each trial.

May import: study.

Pages are shells; what they show comes as server-sent events: the parts of the report that have changed. The standard
library serves them. The pages are shown to this machine alone; at any other address they need a token.

:class:`Server`     an address that shows a store, until it is closed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.lazy import lazy

if TYPE_CHECKING:
    from luthier.serve.server import Server

__all__ = ["Server"]


__getattr__, __dir__ = lazy(__name__, {"Server": "server"})  # which loads the report's packages
