"""Who may import whom. Every import statement of the package is read, those inside functions too, and every string that
names a module: ``"luthier.propose.derive:Derive"``, ``import_module("luthier.interop.optuna")``.

Imports under ``if TYPE_CHECKING:`` do not count: they name a type for an annotation and are never run.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "luthier"

# The modules of each layer, by their first name under luthier; a folder is one module here.
LAYERS = {
    "errors": {
        "arguments",
        "attributes",
        "errors",
        "checks",
        "hidden",
        "lazy",
        "files",
        "optional",
        "places",
        "reach",
        "text",
    },
    "seeds": {"seeds"},
    "machine": {"machine"},
    "data": {"data", "idx", "split"},
    "space": {"space"},
    "jobs": {"jobs", "limits", "pareto", "schedule", "stop", "trials"},
    "policy": {"policy"},
    "propose": {"propose"},
    "stack": {"stack"},
    "optim": {"optim"},
    "response": {"response"},
    "nn": {"nn"},
    "losses": {"losses"},
    "metrics": {"metrics"},
    "task": {"task"},
    "adapt": {"adapt"},
    "train": {"train"},
    "execute": {"execute"},
    "store": {"store"},
    "report": {"report"},
    "follow": {"follow"},
    "study": {"study"},
    "serve": {"serve"},
    "public": {""},  # luthier/__init__.py
    "interop": {"interop"},
    "cli": {"cli", "tables", "__main__"},
    "testing": {"testing"},
}
# The layers that each may import beside itself; whatever those may import, it may too.
BELOW = {
    "errors": set(),
    "seeds": set(),
    "machine": set(),
    "data": {"errors", "seeds"},
    "space": {"errors", "seeds"},
    "jobs": {"space"},
    "policy": {"space", "optim", "response"},
    "propose": {"jobs", "policy"},
    **{layer: {"errors"} for layer in ("optim", "nn", "losses")},
    "metrics": {"losses"},
    "response": {"optim"},
    "stack": {"errors", "nn"},
    "task": {"space", "data", "stack", "optim", "response", "nn", "losses", "metrics"},
    "adapt": {"task", "policy"},
    "train": {"jobs", "adapt"},
    "execute": {"train"},
    "store": {"jobs"},
    "report": {"store"},
    "follow": {"jobs"},
    "study": {"machine", "propose", "execute", "report", "follow"},
    "serve": {"study"},
    "public": {"study", "serve"},
    "interop": {"public"},
    "cli": {"public"},
    "testing": {"public"},
}
TORCH_ALONE = ("stack", "optim", "response", "nn", "losses", "metrics")
# Where a package is imported under another name than it is installed.
MODULE_OF = {"scikit-learn": "sklearn", "mlflow-skinny": "mlflow"}
NAMES_MODULE = re.compile(r"^(luthier(?:\.\w+)+):\w+$")
# The table of methods names classes of packages that are imported when the method is first used.
MAY_NAME = {"luthier/study/methods.py": "luthier.interop."}
# Files of one name in two packages: each pair is about one thing, seen from two layers.
SAME = {
    "diverse.py": "propose study",
    "hypergradient.py": "adapt optim",
    "kept.py": "report study",
    "proposers.py": "interop/optuna testing",
    "sampling.py": "report study",
    "tuning.py": "cli study",
}
NAMED_FILE = re.compile(r'^\s*"([A-Za-z0-9-]+)[^"]*",\s*# (luthier/[\w/]+\.py)', re.MULTILINE)


class Import(NamedTuple):
    """One imported module: ``luthier.space`` of ``from luthier.space import Config``."""

    module: str
    line: int

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def imports(source: str, package: str = "", modules: frozenset[str] = frozenset()) -> Iterator[Import]:
    """The imports of a file that are run.

    Args:
        source: Its text.
        package: The package in which it stands, for relative imports.
        modules: Names under ``luthier`` that are modules, to tell ``from luthier import space`` from a public name.
    """
    tree = ast.parse(source)
    skipped = {
        id(node) for test in ast.walk(tree) if type_checking(test) for part in test.body for node in ast.walk(part)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (Import(name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.Constant) and (named := NAMES_MODULE.match(str(node.value))):
            yield Import(named[1], node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (Import(name, node.lineno) for name in beginnings(node))
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "luthier":
                for name in node.names:
                    yield Import(f"luthier.{name.name}" if name.name in modules else "luthier", node.lineno)
            else:
                yield Import(module, node.lineno)


def beginnings(call: ast.Call) -> Iterator[str]:
    """Yield the module that a call names in full, or with which an f-string begins: ``luthier.adapt``."""
    for part in call.args[:1]:
        texts = part.values[:1] if isinstance(part, ast.JoinedStr) else [part]
        for text in texts:
            name = str(text.value).rstrip(".") if isinstance(text, ast.Constant) else ""
            if name.count("."):
                yield name


def type_checking(node: ast.AST) -> bool:
    names = (getattr(node.test, "id", ""), getattr(node.test, "attr", "")) if isinstance(node, ast.If) else ()
    return "TYPE_CHECKING" in names


def layer_of(module: str) -> str | None:
    """The layer of ``luthier`` or ``luthier.x.y``."""
    name = [*module.split("."), ""][1]
    return next((layer for layer, names in LAYERS.items() if name in names), None)


def allowed(layer: str) -> set[str]:
    """The layer itself, those below it, and those below them."""
    reached, todo = set(), [layer]
    while todo:
        if (one := todo.pop()) not in reached:
            reached.add(one)
            todo += BELOW[one]
    return reached


def violations(source: str, package: str, file_layer: str, modules: frozenset[str] = frozenset()) -> list[str]:
    """What in a file of ``file_layer`` reaches upward or sideways."""
    found = []
    for one in imports(source, package, modules):
        if one.top == "luthier":
            if layer_of(one.module) not in allowed(file_layer):
                found.append(f"line {one.line}: {file_layer} imports {one.module}")
        elif file_layer in TORCH_ALONE and one.top != "torch" and one.top not in sys.stdlib_module_names:
            found.append(f"line {one.line}: {file_layer} imports {one.top}, and may import torch alone")
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = frozenset(path.stem if path.suffix else path.name for path in PACKAGE.iterdir() if path.name != "__pycache__")


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).parts[:-1])


def named(files: list[Path]) -> list:
    return [pytest.param(file, id=str(file.relative_to(ROOT))) for file in files]


# --- the checks themselves, on text where the answer is known


@pytest.mark.parametrize(
    ("source", "package", "layer", "count"),
    [
        ("from luthier.jobs import Job", "luthier", "space", 1),
        ("from luthier.space import Space", "luthier", "jobs", 0),
        ("import luthier.store.sql", "luthier.propose", "propose", 1),
        ("def f():\n    from luthier.adapt.plain import Plain", "luthier.propose", "propose", 1),
        ("from ..execute import local", "luthier.adapt", "adapt", 1),
        ("from . import plain\nfrom .plain import Plain", "luthier.adapt", "adapt", 0),
        ("from luthier import store", "luthier.propose", "propose", 1),
        ("from luthier import tune_everything", "luthier.space", "space", 1),
        ("if TYPE_CHECKING:\n    from luthier.tune import tune\nelse:\n    import luthier.cli", "luthier", "jobs", 1),
        ("import typing\nif typing.TYPE_CHECKING:\n    import luthier.cli", "luthier", "jobs", 0),
        ("import numpy", "luthier.optim", "optim", 1),
        ("import math, torch\nfrom torch import nn\nfrom luthier.errors import TaskError", "luthier.optim", "optim", 0),
        ("from luthier.nothing import x", "luthier", "cli", 1),
        ('proposer = "luthier.propose.derive:Derive"', "luthier.adapt", "adapt", 1),
        ('path = "luthier.propose.random:Random"', "luthier.propose", "propose", 0),
        ('importlib.import_module("luthier.store.sql")', "luthier.propose", "propose", 1),
        ('import_module(f"luthier.adapt.{name}")', "luthier.train", "train", 0),
        ('import_module(f"luthier.adapt.{name}")', "luthier.store", "store", 1),
        ('import_module(f"{__name__}.{name}")', "luthier.store", "store", 0),
    ],
)
def test_checks_find_what_is_there(source, package, layer, count):
    assert len(violations(source, package, layer, MODULES)) == count


def test_order_has_no_circle_and_keeps_the_two_kinds_of_method_apart():
    assert set(BELOW) == set(LAYERS)
    for layer in BELOW:
        assert all(layer not in allowed(below) for below in BELOW[layer]), f"{layer} is below itself"
    assert not allowed("propose") & {"adapt", "execute", "store", "task", "train"}
    assert not allowed("adapt") & {"propose", "execute", "store", "jobs"}
    assert not allowed("report") & {"execute", "task"} and not allowed("store") & {"propose", "train"}


# --- the package


@pytest.mark.parametrize("file", named(FILES))
def test_file_imports_downward_only(file):
    layer = layer_of(module_of(file))
    assert layer is not None, f"give {file.name} a layer in LAYERS"
    named = MAY_NAME.get(str(file.relative_to(ROOT)), "none")
    found = violations(file.read_text(), package_of(file), layer, MODULES)
    assert [one for one in found if f"imports {named}" not in one] == []


@pytest.mark.parametrize("folder", sorted(path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()))
def test_package_says_in_its_first_lines_what_it_may_import(folder):
    layer = layer_of(f"luthier.{folder.name}")
    said = re.search(r"^May import: ([\w, ]+)[.;(]", (folder / "__init__.py").read_text(), re.MULTILINE)
    assert said is not None and layer is not None
    assert set(said[1].strip().split(", ")) == BELOW[layer]
    assert ("torch alone" in (folder / "__init__.py").read_text()) == (layer in TORCH_ALONE)


def test_no_two_files_of_one_name_for_different_things():
    places: dict[str, list[str]] = {}
    for file in FILES:
        places.setdefault(file.name, []).append(str(file.parent.relative_to(PACKAGE)))
    twice = {name: set(found) for name, found in places.items() if len(found) > 1 and name != "__init__.py"}
    assert twice == {name: set(found.split()) for name, found in SAME.items()}


def test_the_readme_draws_the_house_as_it_is():
    house = (ROOT / "README.md").read_text().split("\n## ")[-1]
    lines = [line.partition(" — ")[0].split() for line in house.splitlines() if re.match(r"\w+  ?\w* ?.* — ", line)]
    places = {name: height for height, names in enumerate(reversed(lines)) for name in names}
    assert len(lines) == 10 and places.keys() == MODULES - {"__init__", "__main__", "py"}  # py.typed
    for file in FILES:
        own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for one in imports(file.read_text(), package_of(file), MODULES) if own in places else ():
            below = [*one.module.split("."), ""][1]
            named = MAY_NAME.get(str(file.relative_to(ROOT)), "none")
            if below in places and f"luthier.{below}." != named:
                assert places[below] <= places[own], f"{file}: {below} is drawn above {own}"


def test_optional_packages_are_imported_in_the_one_file_that_is_named():
    text = (ROOT / "pyproject.toml").read_text()
    assert [file for file in re.findall(r"luthier/[\w/]+\.py", text) if not (ROOT / file).exists()] == []
    project = tomllib.loads(text)["project"]
    bare = {re.match(r"[A-Za-z0-9-]+", line)[0] for line in project["dependencies"]}  # type: ignore[index]
    required = {MODULE_OF.get(name, name) for name in bare}
    extras = text.partition("[project.optional-dependencies]")[2].partition("\nbench = [")[0]
    named_file = {MODULE_OF.get(name, name): file for name, file in NAMED_FILE.findall(extras)}
    optional = [
        name
        for extra, names in project["optional-dependencies"].items()
        if extra not in ("bench", "dev", "docs", "papers", "zoo")
        for name in names
    ]
    assert len(named_file) == len(optional), "each optional package names its file in a comment on its own line"
    importers: dict[str, set[str]] = {}
    for file in FILES:
        for one in imports(file.read_text(), package_of(file)):
            if one.top not in sys.stdlib_module_names and one.top not in required | {"luthier"}:
                importers.setdefault(one.top, set()).add(str(file.relative_to(ROOT)))
    if "pytest" in importers:  # the contract tests are run by pytest, so whoever imports them has it
        assert all(file.startswith("luthier/testing/") for file in importers.pop("pytest"))
    assert importers == {name: {named_file[name]} for name in importers if name in named_file}


def outside(source: str) -> list[str]:
    """What a script uses of luthier beside its public names."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.startswith("luthier.")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("luthier."):
            found.append(str(node.module))
        elif isinstance(node, ast.ImportFrom) and node.module == "luthier":
            found += [name.name for name in node.names if name.name.startswith("_")]
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in ("lt", "luthier"):
                found.append(ast.unparse(node))
    return found


def test_private_use_is_found():
    assert outside("import luthier as lt\nfrom luthier import data\nlt.data.digits()\nlt.__version__") == []
    source = "import luthier.space\nfrom luthier.jobs import Job\nfrom luthier import _x\nlt.data._splits()"
    assert sorted(outside(source)) == ["_x", "lt.data._splits", "luthier.jobs", "luthier.space"]


SCRIPTS = [file for folder in ("papers", "benchmarks", "examples") for file in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("file", named(SCRIPTS))
def test_script_uses_public_names_alone(file):
    assert outside(file.read_text()) == []
