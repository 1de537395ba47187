"""Examples with one mistake in them, drawn by a seed: what a tired user might write."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CALLS = {"tune", "compare", "TorchTask", "Float", "Int", "Choice", "Study"}
NAMED = {"tune", "compare", "Study"}  # which answer a wrong name of an argument
FREE = {"name", "progress", "store", "when", "seed", "dtype", "label"}  # arguments of which most values are good ones


def call_of(node: ast.AST) -> str:
    """The public name that is called, ``"tune"`` of ``lt.tune(…)``; "" of anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return node.func.attr if isinstance(owner, ast.Name) and owner.id == "lt" else ""
    return ""


def misspelt(word: str, rng: random.Random) -> str:
    """The word with two letters exchanged, or one twice."""
    at = rng.randrange(len(word) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return swapped if swapped != word else word + word[-1]


def changes(tree: ast.Module, rng: random.Random) -> Iterator[tuple[str, ast.Call]]:
    """Every change that can be made to a tree, told in words, and made when it is taken."""
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call) and call_of(node) in CALLS]:
        kind = call_of(call)
        for keyword in call.keywords:
            name, value = keyword.arg, keyword.value
            if name is None or name in FREE:
                continue
            if kind in NAMED and len(name) > 3:
                keyword.arg = misspelt(name, rng)
                yield f"{kind}({keyword.arg}=…) for {name}", call
                keyword.arg = name
            if isinstance(value, ast.Constant) and isinstance(value.value, int | float) and value.value is not True:
                for bad in (-1, "many", 0):
                    if (kind, bad) == ("tune", 0) and name == "seconds":
                        continue
                    keyword.value = ast.Constant(bad)
                    yield f"{kind}({name}={bad!r})", call
                keyword.value = value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                keyword.value = ast.Constant(misspelt(value.value, rng))
                yield f"{kind}({name}={keyword.value.value!r})", call
                keyword.value = value
            if kind == "TorchTask" and name in ("model", "loss", "data", "space", "optimizer"):
                keyword.value = ast.Constant(7)
                yield f"{kind}({name}=7)", call
                keyword.value = value
        if kind in ("Float", "Int") and len(call.args) == 2:
            call.args.reverse()
            yield f"{kind} with its bounds exchanged", call
            call.args.reverse()
            before, call.args = call.args, [call.args[0]]
            yield f"{kind} without its upper bound", call
            call.args = before
        if kind == "Choice" and call.args and isinstance(call.args[0], ast.List):
            before = call.args
            call.args = [ast.List([], ast.Load())]
            yield "Choice of nothing", call
            call.args = before


def mutants(seed: int, files: list[Path]) -> Iterator[tuple[str, str]]:
    """Mistaken examples without end: what is wrong, and the text, where the mistaken call is ``mistaken(lambda: …)``.

    Args:
        seed: Of the draws.
        files: The examples.
    """
    rng = random.Random(seed)
    while True:
        file = rng.choice(files)
        tree = ast.parse(file.read_text())
        count = sum(1 for _ in changes(tree, random.Random(seed)))
        wanted = rng.randrange(max(1, count))
        for place, (what, call) in enumerate(changes(tree, rng)):
            if place == wanted:
                copy = ast.Call(call.func, call.args, call.keywords)
                call.func = ast.Name("mistaken", ast.Load())
                call.args = [ast.Lambda(ast.arguments([], [], None, [], [], None, []), copy)]
                call.keywords = []
                yield f"{file.name}: {what}", ast.unparse(ast.fix_missing_locations(tree))
                break
