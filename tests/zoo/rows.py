"""What the zoo asks of a network: the numbers of a plain torch loop, and one result alone, stacked and traced."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree
from zoo.entry import Entry

import luthier as lt
from luthier.adapt.plain import Plain
from luthier.stack.trace import Eager, Traced, trace

ROWS, STEPS, MEMBERS = 32, 4, 3
DIGITS = lt.data.digits(flat=True)


class Row(NamedTuple):
    """One row of the table.

    Args:
        runs: ``"runs"``, ``"refused"`` or ``"wrong"``.
        form: How it runs.
        plain: Relative difference to a plain loop, None where it draws or is refused.
        same: What equals the members alone bit for bit, of stacked and traced; ``cut`` has resumed.
        note: A refusal, or what is wrong.
    """

    runs: str
    form: str = ""
    plain: float | None = None
    same: str = ""
    note: str = ""


def inputs_of(reads: str, split: Any, rows: int) -> Any:
    x = split.inputs[:rows]
    tokens = ((x - x.min()) / (x.max() - x.min()) * 16).round().long()
    words = tokens[:, 16:32]
    texts = {"input_ids": words, "attention_mask": (words > 0).long(), "labels": split.targets[:rows]}
    return {
        "flat": x,
        "tokens": tokens,
        "pair": (x, x.flip(1)),
        "dict": {"x": x, "y": x.flip(1)},
        "text": texts,
        "causal": {"input_ids": words, "labels": words},
        "pixels": {"pixel_values": x.view(-1, 1, 8, 8), "labels": split.targets[:rows]},
    }[reads]


def task_of(entry: Entry, rate: float, **settings: Any) -> lt.TorchTask:
    """The task of a network at a dropout rate, with SGD unless told otherwise."""

    def model(config: Any) -> Any:
        torch.manual_seed(int(config.get("seed", 0)))
        return entry.make(rate)

    splits = []
    for split, rows in ((DIGITS.train, ROWS), (DIGITS.valid, 2 * ROWS)):
        inputs = inputs_of(entry.reads, split, rows)
        splits.append(lt.data.Split(inputs) if entry.loss is None else lt.data.Split(inputs, split.targets[:rows]))
    usual: dict[str, Any] = {"space": lt.Space(lr=lt.Float(0.01, 0.05)), "batch_size": ROWS}
    return lt.TorchTask(model=model, data=lt.Splits(*splits), loss=entry.loss, **{**usual, **settings})


def plain_loss(entry: Entry, lr: float) -> float:
    """The validation loss after some steps of a plain loop, without dropout."""
    step = plain_step(entry, 0.0, lr)
    for _ in range(STEPS):
        model = step()
    model.eval()
    with torch.no_grad():
        output = called(model, inputs_of(entry.reads, DIGITS.valid, 2 * ROWS))
        return float(lossed(entry, output, DIGITS.valid.targets[: 2 * ROWS]))


def plain_step(entry: Entry, rate: float, lr: float) -> Callable[[], nn.Module]:
    """A step of a plain loop; it returns the network."""
    torch.manual_seed(0)
    model = entry.make(rate)
    x, y = inputs_of(entry.reads, DIGITS.train, ROWS), DIGITS.train.targets[:ROWS]
    optimizer: Any = None

    def step() -> nn.Module:
        nonlocal optimizer
        loss = lossed(entry, called(model, x), y)
        optimizer = optimizer or torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return model

    return step


def called(model: nn.Module, x: Any) -> Any:
    return model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)


def lossed(entry: Entry, output: Any, target: torch.Tensor) -> torch.Tensor:
    return output["loss"] if entry.loss is None else entry.loss(output, target)


def row_of(entry: Entry, rate: float = 0.1) -> Row:
    """Run one network through everything."""
    try:
        program = task_of(entry, rate).program({"lr": 0.03})
    except lt.errors.TaskError as error:
        return Row("refused", note=str(error))
    batch, adapter = program.sources.example(rows=ROWS), Plain()

    def step(state: Any, batches: Any, valid: Any) -> Any:
        return adapter.step(program, state, batches, valid)

    starts = [adapter.init(program, {"lr": 0.01 * (k + 1)}, k) for k in range(MEMBERS)]
    alone = [_after(Eager(step, state), batch) for state in starts]
    expected = pytree.tree_map(lambda *rows: torch.cat(rows), *alone)
    stack = pytree.tree_map(lambda *rows: torch.cat(rows), *starts)
    same = {"stacked": same_bits(_after(Eager(step, stack), batch), expected)}
    if not program.in_turn:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = trace(step, stack, [batch], None)
        if graph is not None:
            same["traced"] = same_bits(_after(Traced(graph, stack), batch), expected)
    wrong = [f"{name} differs from alone" for name, equal in same.items() if not equal]
    off = None
    if not entry.draws:
        found = task_of(entry, 0.0).program({"lr": 0.03})
        state = adapter.init(found, {"lr": 0.03}, 0)
        runner = Eager(lambda s, b, v: adapter.step(found, s, b, v), state)
        loss = float(found.evaluate(_after(runner, batch), "valid")["loss"])
        expected_loss = plain_loss(entry, 0.03)
        off = abs(loss - expected_loss) / max(abs(expected_loss), 1e-9)
        if not off < entry.tolerance:
            wrong.append(f"validation loss {loss:.6g}, in a plain loop {expected_loss:.6g}")
    form = program.execution
    return Row(
        "wrong" if wrong else "runs",
        form.form,
        off,
        ", ".join(k for k, equal in same.items() if equal),
        "; ".join(wrong),
    )


def _after(runner: Any, batch: Any) -> Any:
    for _ in range(STEPS):
        runner([batch], None)
    return pytree.tree_map(lambda tensor: tensor.clone(), runner.state)


def same_bits(a: Any, b: Any) -> bool:
    """Return True if two nests hold the same numbers, bit for bit."""
    pairs = zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True)
    return all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in pairs)
