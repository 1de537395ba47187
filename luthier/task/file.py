"""A user's Python file as a module, found by its path: the same in this process and in a worker."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from luthier.errors import TaskError
from luthier.files import absolute
from luthier.task.call import describe

FILES: dict[str, Path] = {}  # module name -> file, for the files loaded in this process


class _Source(SourceFileLoader):
    """Compiles the file as it is: a cached one is judged by its size and a time in whole seconds."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the file's text now."""
        return self.source_to_code(self.get_data(self.path), self.path)


def module_name(path: Path) -> str:
    """The name under which the file is imported: derived from its whole path, so that equal stems do not collide."""
    digest = hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()
    return f"luthier_file_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"


def load_file(path: str | Path) -> ModuleType:
    """Import a Python file by its path, once in a process.

    Its folder stands first on ``sys.path`` while it is imported, as for a script, and last afterwards, so that
    imports inside its functions still find the files beside it.

    Raises:
        TaskError: If the file is absent or not Python, or if importing it raises.
    """
    file = absolute(path).resolve()
    name = module_name(file)
    if name in FILES:
        return sys.modules[name]
    if not file.is_file():
        raise TaskError(
            "it is a folder" if file.is_dir() else "there is no such file",
            where=str(path),
            remedy="Give the path of a Python file that defines task.",
        )
    spec = importlib.util.spec_from_file_location(name, file, loader=_Source(name, str(file)))
    spec = spec if file.suffix == ".py" else None
    if spec is None or spec.loader is None:
        raise TaskError("it is not a .py file", where=str(path), remedy="Give the path of a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickles in it look themselves up
    folder = str(file.parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as error:  # SystemExit too: a script without a main guard calls exit()
        del sys.modules[name]
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        raise TaskError(
            f"importing it raised {describe(error)}{line}", where=str(path), remedy="Mend the file, then run again."
        ) from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
    FILES[name] = file
    return module
