"""``python -m luthier`` is the ``luthier`` command."""

from __future__ import annotations

from luthier.cli import main

if __name__ == "__main__":
    main()
