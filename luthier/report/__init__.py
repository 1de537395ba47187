"""A study as one self-contained HTML page: no network, no other files.

May import: store.

Examples:
    >>> from luthier.jobs import History, Job, Result
    >>> from luthier.space import Float, Space
    >>> history = History(Space(x=Float(0, 1)), {"loss": "min"})
    >>> history.add(Job(0, {"x": 0.25})); history.add(Result(0, "ok", {"loss": 3.0}))
    >>> "Best configuration" in render(history, StudyInfo("first"))
    True
"""

from __future__ import annotations

from pathlib import Path

from luthier.errors import StudyError
from luthier.files import write_whole
from luthier.jobs import History
from luthier.report.info import KeptFile, Samples, StudyInfo

__all__ = ["KeptFile", "Samples", "StudyInfo", "render", "write"]


def render(history: History, info: StudyInfo) -> str:
    """The report of a study as HTML: a function of its arguments alone, the same at every call.

    Args:
        history: The study's history; only read.
        info: Facts that the history does not hold.

    Returns:
        A whole HTML document of about 5 MB, most of it Plotly's script.

    Examples:
        >>> import luthier as lt
        >>> study = lt.tune(lambda c: c["x"], space=lt.Space(x=lt.Float(0, 1)), trials=3, progress=False)
        >>> render(study.history, StudyInfo("mine"))[:15]
        '<!doctype html>'
    """
    from luthier.report.page import page  # here, so that importing luthier does not load Plotly and scikit-learn

    return page(history, info)


def write(history: History, info: StudyInfo, path: str | Path) -> Path:
    """Write the report to a file, whole or not at all.

    Args:
        history: The study's history; only read.
        info: Facts that the history does not hold.
        path: The file; its folder is made where it does not exist.

    Returns:
        The absolute path of the file.

    Raises:
        StudyError: If the file cannot be written.

    Examples:
        >>> import tempfile
        >>> import luthier as lt
        >>> study = lt.tune(lambda c: c["x"], space=lt.Space(x=lt.Float(0, 1)), trials=3, progress=False)
        >>> write(study.history, StudyInfo("mine"), Path(tempfile.mkdtemp(), "mine.html")).name
        'mine.html'
    """
    return save(render(history, info), path)


def save(text: str, path: str | Path) -> Path:
    """Write a page to a file, whole or not at all; its absolute path.

    Raises:
        StudyError: If the file cannot be written.
    """
    try:
        return write_whole(path, text, make_folder=True)
    except OSError as error:
        raise StudyError(
            f"the report cannot be written ({error.strerror or error})",
            where=str(path),
            remedy="Give the path of a file in a folder that you may write to.",
        ) from error
