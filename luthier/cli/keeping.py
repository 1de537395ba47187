"""The commands that move and keep studies: ``copy``, ``backup``, ``rename``, ``delete`` and ``weights``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.options import DEFAULT_STORE, NameArgument, StoreOption, existing, told
from luthier.text import plain, public_url


def copy(
    name: NameArgument,
    to: Annotated[str, typer.Option(help="The store it goes to: SQLite file or postgresql:// URL; made if need be.")],
    store: StoreOption = DEFAULT_STORE,
    new_name: Annotated[str | None, typer.Option("--as", help="Its name there. \\[default: the same]")] = None,
) -> None:
    """Copy a study with its checkpoints into another store, under new ids; the old one stays as it is.

    [bold]Examples[/bold]

    luthier copy digits-pbt --store digits.db --to postgresql://me@host/studies

    luthier copy digits-pbt --store postgresql://me@host/studies --to laptop.db --as digits
    """
    from luthier.store import open_store
    from luthier.store.copying import copy_study, missing

    with told(), existing(store) as source, open_store(to) as target:
        made = copy_study(source, name, target, new_name)
        typer.echo(plain(f"{name}: copied to {public_url(to)} as {made}"))
        if gone := missing(target, made):
            typer.echo(plain(f"not there any more: {', '.join(gone)}"), err=True)


def backup(
    output: Annotated[Path, typer.Option("--output", "-o", help="The new file; checkpoints go to FILE.checkpoints.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Copy a whole SQLite store with its checkpoints, as it is at one moment, while studies go on in it.

    [bold]Example[/bold]

    luthier backup --store fashion.db --output /backup/fashion.db
    """
    from luthier.store.copying import backup as run

    with told(), existing(store) as opened:
        path, missing = run(opened, output)
        typer.echo(plain(f"{public_url(store)}: copied to {path}"))
        if missing:
            typer.echo(plain(f"not there any more: {', '.join(missing)}"), err=True)


def rename(
    name: NameArgument,
    new_name: Annotated[str, typer.Argument(help="Its new name.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Give a study another name. End the drivers that work on it first: they know it by the old one.

    [bold]Example[/bold]

    luthier rename fashion_mnist-random first-try --store fashion.db
    """
    from luthier.store import open_store
    from luthier.store.copying import rename_study

    with told():
        with existing(store):
            pass  # a file that is not there is not made
        with open_store(store) as opened:
            rename_study(opened, name, new_name)
        typer.echo(plain(f"{name}: is now {new_name}"))


def delete(
    name: NameArgument,
    store: StoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a study with all its trials and checkpoints, for good. It asks before.

    [bold]Example[/bold]

    luthier delete first-try --store fashion.db
    """
    from luthier.store import open_store

    with told():
        with existing(store) as opened:
            opened.settings(name)  # that there is one
            found = [one for one in opened.studies() if one.name == name]
        if not yes:
            typer.confirm(plain(f"Remove {name} with {found[0].jobs if found else 0:,} jobs for good?"), abort=True)
        with open_store(store) as opened:
            opened.delete(name)
        typer.echo(plain(f"{name}: removed"))


def weights(
    name: NameArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file.")],
    store: StoreOption = DEFAULT_STORE,
    job: Annotated[int | None, typer.Option(min=0, help="Which job. \\[default: the best]")] = None,
) -> None:
    """Write the trained weights of a job as a state_dict: [bold]torch.load(FILE, weights_only=True)[/bold] reads it.

    [bold]Example[/bold]

    luthier weights fashion_mnist-random --store fashion.db --output best.pt
    """
    from luthier.study.study import Study
    from luthier.study.weights import save_weights

    with told(), existing(store) as opened:
        typer.echo(str(save_weights(Study.load(name, opened), output, job)))
