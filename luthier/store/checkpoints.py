"""States of trainings on disk: written whole or not at all, read without pickle, known by the ids that they carry."""

from __future__ import annotations

import copy
import errno
import io
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from luthier.errors import CheckpointError
from luthier.store.claims import check_claims
from luthier.store.contents import Recent, checked
from luthier.store.folder import folder_at

SUFFIX = ".ckpt"
MARKER = "luthier.json"  # in a study's folder: the ids of its store and study
_FORMAT = "luthier checkpoint 1"


class Checkpoints:
    """A folder of checkpoints, one file a stack of members.

    Every file is new (its name gets a random part), is written beside its place and renamed, and is on the disk when
    :meth:`save` returns. It can be pickled, and used by many processes at once.

    Args:
        folder: A local folder, created by the first save, or an fsspec URL (``s3://bucket/runs``, ``memory://runs``),
            where the file is written under another name and moved.
        durable: True if a file must survive a crash of the machine; False saves the wait for the disk.
        identity: Ids of the store and the study, by ``"store"`` and ``"study"``; they go into the folder's marker and
            into each file, and a file with others is refused. None: nothing is checked.
        older: True to accept files without ids too: those that luthier wrote before it assigned any.

    Examples:
        >>> import tempfile, torch
        >>> checkpoints = Checkpoints(tempfile.mkdtemp())
        >>> file = checkpoints.save("job-7", {"w": torch.ones(2)}, {"jobs": [7]})
        >>> checkpoints.load(file)
        ({'w': tensor([1., 1.])}, {'jobs': [7]})
    """

    def __init__(
        self,
        folder: str | Path,
        durable: bool = True,
        identity: Mapping[str, str] | None = None,
        older: bool = False,
    ) -> None:
        self._folder = folder_at(folder, durable)
        self._recent = Recent()
        self._identity, self._older = dict(identity or {}), older
        self._owner: int | None = None
        self._marked = not self._identity

    def __repr__(self) -> str:
        return f"Checkpoints({self.folder!r})"

    @property
    def folder(self) -> str:
        """The path of the folder, or its URL."""
        return self._folder.path

    def written_by(self, owner: int) -> Checkpoints:
        """The same folder, in which the files of one owner carry its number."""
        if self._owner == owner:
            return self
        made = copy.copy(self)
        made._owner = owner
        return made

    def save(self, name: str, state: Any, meta: Mapping[str, Any] | None = None) -> str:
        """Write a state.

        Args:
            name: Start of the file's name, for people.
            state: Nested dicts and lists of tensors, numbers, strings, booleans and None; tensors are detached, and a
                view is written without the rest of its storage.
            meta: Plain values that are kept beside it.

        Returns:
            The file's name in the folder: what :meth:`load` takes, and what ``Result.checkpoint`` names.

        Raises:
            CheckpointError: If the state holds something else, or the disk is full or cannot be written; what was
                there before is untouched and nothing half-written stays.
        """
        import torch

        owner = "" if self._owner is None else f"-o{self._owner}"
        file = f"{quote(name, safe='')[:80]}{owner}-{uuid.uuid4().hex[:12]}{SUFFIX}"
        content = {"format": _FORMAT, "state": checked(state, "state"), "meta": checked(dict(meta or {}), "meta")}
        if self._identity:
            content["ids"] = dict(self._identity)
        data = io.BytesIO()
        torch.save(content, data)
        try:
            if not self._marked:
                self._mark()
            self._folder.write(file, data.getbuffer())
        except Exception as error:  # an object store raises what its own library raises
            raise _unwritten(self._name(file), error) from error
        self._recent.add(file, content, data.tell(), self._folder.stamp(file))
        return file

    def load(self, file: str) -> tuple[Any, dict[str, Any]]:
        """State and meta of a checkpoint, tensors on the CPU.

        Raises:
            CheckpointError: If the file is missing, cut short, was not written by :meth:`save`, or is of another study.
        """
        _check_name(file)
        content = self._recent.get(file, self._folder.stamp(file)) or self._read(file)
        ids = content.get("ids")
        if self._identity and ids != self._identity and not (ids is None and self._older):
            raise CheckpointError(
                f"it belongs to another study (its ids are {ids}, this study's are {self._identity})",
                where=self._name(file),
                remedy="A folder of checkpoints serves one study of one database: put the files that belong here back.",
            )
        return content["state"], content["meta"]

    def files(self) -> list[str]:
        """Names of all checkpoints in the folder, sorted."""
        return sorted(name for name in self._folder.names() if name.endswith(SUFFIX) and not name.startswith("."))

    def remove(self, files: Iterable[str]) -> None:
        """Remove checkpoints; one that is gone already is no error."""
        for file in files:
            _check_name(file)
            self._recent.forget(file)
            try:
                self._folder.remove(file)
            except FileNotFoundError:
                pass
            except OSError as error:
                remedy = "Check the permissions of the folder; the file may be removed by hand."
                raise CheckpointError(f"cannot be removed ({error})", where=self._name(file), remedy=remedy) from error

    def clear(self) -> None:
        """Remove the folder and all that is in it.

        Raises:
            CheckpointError: If the folder is another study's, or cannot be removed.
        """
        self._check_marker()
        self._marked = not self._identity
        try:
            self._folder.clear()
        except OSError as error:
            remedy = "Check its permissions; it may be removed by hand."
            raise CheckpointError(f"cannot be removed ({error})", where=self.folder, remedy=remedy) from error

    def _mark(self) -> None:
        """Write the folder's marker, or check the one that is there.

        Raises:
            CheckpointError: If the folder is another study's.
        """
        if not self._check_marker():
            self._folder.write(MARKER, memoryview(json.dumps(self._identity).encode()))
        self._marked = True

    def _check_marker(self) -> bool:
        """Check whose the folder is; return False where it has no marker.

        Raises:
            CheckpointError: If the folder is another study's.
        """
        try:
            ids = json.loads(self._folder.read(MARKER)) if self._identity else None
        except FileNotFoundError:
            return False
        except ValueError:
            ids = None
        if ids not in (None, self._identity):
            raise CheckpointError(
                f"the folder belongs to another study (its ids are {ids}, this study's are {self._identity})",
                where=self._name(MARKER),
                remedy="Give this store a folder of its own: checkpoints=….",
            )
        return True

    def _name(self, file: str) -> str:
        return f"{self.folder}/{file}"

    def _read(self, file: str) -> dict[str, Any]:
        import torch

        remedy = "Start a new study, or restore the folder from a backup."
        try:
            data = self._folder.read(file)
        except FileNotFoundError:
            raise CheckpointError("the checkpoint does not exist", where=self._name(file), remedy=remedy) from None
        except Exception as error:
            remedy = "Check that the folder is reachable and readable by you, then run again."
            raise CheckpointError(f"cannot be read ({error})", where=self._name(file), remedy=remedy) from error
        try:
            check_claims(data)
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}")
            return {"state": content["state"], "meta": content["meta"], "ids": content.get("ids")}
        except Exception as error:  # torch raises many kinds on a damaged file
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"not a whole checkpoint of luthier ({len(data)} bytes: {first})", where=self._name(file), remedy=remedy
            ) from error


def writer_of(file: str) -> int | None:
    """The owner in whose name a checkpoint was written; None where it has none."""
    found = re.search(rf"-o(\d+)-[0-9a-f]{{12}}{re.escape(SUFFIX)}$", file)
    return None if found is None else int(found[1])


def folder_name(study: str) -> str:
    """A folder's name for a study; any study name gives one of its own."""
    name = quote(study, safe=" ()+,=@")
    if len(name) > 200:
        name = f"{name[:160]}-{uuid.uuid5(uuid.NAMESPACE_URL, study).hex}"
    return name.replace(".", "%2E") if name.strip(".") == "" else name


def is_folder_name(name: Any) -> bool:
    """True for the name of a folder in another one; a row that was changed may lead anywhere."""
    return isinstance(name, str) and name.strip(".") != "" and not set(name) & set("/\\\0")


def study_folder(root: str | Path, name: str) -> str:
    """The folder of that name under ``root``, which may be a URL."""
    return f"{str(root).rstrip('/')}/{name}"


def _check_name(file: str) -> None:
    if not isinstance(file, str) or not file.endswith(SUFFIX) or file.startswith(".") or set(file) & set("/\\\0"):
        remedy = "Checkpoints are named as save() returned it; the database may have been changed by hand."
        raise CheckpointError("not the name of a checkpoint", where=repr(file), remedy=remedy)


def _unwritten(file: str, error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what = "the disk is full" if full else f"cannot be written ({type(error).__name__}: {error})"
    remedy = (
        "Free some space and run again: nothing recorded is lost."
        if full
        else "Check that the folder exists and that you may write there, then run again: nothing recorded is lost."
    )
    return CheckpointError(what, where=file, remedy=remedy)
