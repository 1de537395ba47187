"""Data in every form that torch has: the same minibatches at every step, from any reader, and refusals by name."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

import luthier as lt
from luthier.errors import DataError, LuthierError, TaskError
from luthier.seeds import Seeds

SPACE = lt.Space(lr=lt.Float(0.01, 0.5, log=True))
DIGITS = lt.data.digits(flat=True, train=96, valid=40, test=40)


class Moved(Dataset):
    """Rows with a random shift, drawn from all three global generators; counts how often it is read."""

    def __init__(self, split: lt.Split = DIGITS.train) -> None:
        self.split, self.reads = split, 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.reads += 1
        shift = torch.rand(()) + random.random() + float(np.random.rand())
        return self.split.inputs[i] + 0.1 * shift, int(self.split.targets[i])


class Flowing(IterableDataset):
    def __init__(self, rows: int = 96) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return 96

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in torch.randperm(self.rows).tolist():
            yield DIGITS.train.inputs[i] + torch.rand(()), DIGITS.train.targets[i]


class Drawing(Moved):
    """Draws from a generator of its own, which nobody can set back."""

    own = np.random.default_rng(0)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.split.inputs[i] + float(self.own.random()), int(self.split.targets[i])


def net(config: dict[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


def task(data: Any, **settings: Any) -> lt.TorchTask:
    return lt.TorchTask(**{"space": SPACE, "model": net, "data": data, "loss": F.cross_entropy, **settings})


def stream(data: Any, seed: int = 3, **settings: Any) -> Callable[[int], Any]:
    """The training minibatches of a fresh reader."""
    sources = task(data, **settings).sources({})
    return sources["train"].stream(sources.size("train"), Seeds(seed), "shuffle train")


def same(left: Any, right: Any) -> bool:
    pairs = [(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(left, right, strict=True)]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def padded(rows: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    width = max(int(target) for _, target in rows) + 1
    return torch.stack([F.pad(x, (0, width)) for x, _ in rows]), torch.tensor([y for _, y in rows])


def with_valid(train: Any) -> lt.Splits:
    return lt.Splits(train=train, valid=DIGITS.valid)


READERS: dict[str, Callable[[], Any]] = {
    "dataset": Moved,
    "loader": lambda: DataLoader(Moved(), batch_size=20, shuffle=True),
    "in order": lambda: DataLoader(Moved(), batch_size=20),
    "weighted": lambda: DataLoader(Moved(), 20, sampler=WeightedRandomSampler(torch.arange(1.0, 97), 60)),
    "collated": lambda: DataLoader(Moved(), batch_size=20, shuffle=True, collate_fn=padded),
    "unbatched": lambda: DataLoader(Moved(), batch_size=None, shuffle=True),
    "stream": lambda: DataLoader(Flowing(), batch_size=20),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_minibatch_is_a_function_of_its_step(reader: str) -> None:
    """Begun at any step, read again, between other draws: the same numbers, and no generator is disturbed."""
    steps = [0, 1, 4, 5, 9, 4]
    once = stream(with_valid(READERS[reader]()))
    expected = {step: once(step) for step in range(10)}
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[2]
    for step in steps:
        torch.rand(3), random.random()
        assert same(stream(with_valid(READERS[reader]()))(step), expected[step]), step
    torch.set_rng_state(before[0]), random.setstate(before[1])
    stream(with_valid(READERS[reader]()))(3)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert before[2] == np.random.get_state()[2]
    assert not same(expected[0], expected[5]) or reader == "in order", "another epoch, another order"
    assert not same(stream(with_valid(READERS[reader]()), seed=4)(0), expected[0]), "another study, other numbers"


def test_two_workers_give_what_none_gives() -> None:
    readers = [stream(with_valid(DataLoader(Moved(), 20, shuffle=True, num_workers=n))) for n in (0, 2)]
    for step in (3, 4, 5, 6, 0):
        assert same(*(reader(step) for reader in readers))


def test_a_loader_is_read_as_a_plain_loop_reads_it() -> None:
    """Every row of an epoch once, its last small minibatch too; a drop_last leaves that out."""
    data = TensorDataset(DIGITS.train.inputs, torch.arange(96))
    for drop, sizes in ((False, [40, 40, 16]), (True, [40, 40])):
        at = stream(with_valid(READERS["dataset"]()), batch_size=40)
        loader = DataLoader([data[i] for i in range(96)], batch_size=40, shuffle=True, drop_last=drop)
        at = stream(with_valid(loader))
        for epoch in (0, 1):
            batches = [at(epoch * len(sizes) + i)[1] for i in range(len(sizes))]
            assert [len(rows) for rows in batches] == sizes
            assert len({*torch.cat(batches).tolist()}) == sum(sizes)
    weights = torch.zeros(96).index_fill(0, torch.arange(5), 1.0)
    drawn = stream(with_valid(DataLoader([data[i] for i in range(96)], 32, sampler=WeightedRandomSampler(weights, 64))))
    assert torch.cat([drawn(i)[1] for i in range(4)]).max() < 5


def test_one_pass_of_the_data_feeds_a_whole_stack() -> None:
    def reads(trials: int) -> int:
        data = Moved()
        study = lt.tune(task(with_valid(data), batch_size=24), trials=trials, epochs=2, seed=0, progress=False)
        assert all(trial.status == "ok" for trial in study.trials)
        return data.reads

    reads(1)
    assert reads(6) - reads(3) <= 48, "six members must not read the rows twice as often as three"


def test_losses_are_a_plain_loops_over_the_same_minibatches() -> None:
    """Dataset, loader with a small last minibatch, and stream: five members beside five plain loops, bit for bit."""
    for train in (Moved(), DataLoader(Moved(), 40, shuffle=True), DataLoader(Flowing(), 40)):
        given = task(with_valid(train), batch_size=None if isinstance(train, DataLoader) else 40)
        study = lt.tune(given, trials=3, epochs=2, seed=5, progress=False)
        sources = given.sources({})
        at = sources["train"].stream(sources.size("train"), Seeds(5), "shuffle train")
        for trial in study.trials:
            torch.manual_seed(Seeds(5).key(trial.number, "train"))
            plain = net({})
            optimizer = torch.optim.SGD(plain.parameters(), lr=trial.config["lr"])
            for step in range(trial.steps):
                inputs, targets = at(step)
                optimizer.zero_grad()
                F.cross_entropy(plain(inputs), targets).backward()
                optimizer.step()
            found = F.cross_entropy(plain(DIGITS.valid.inputs), DIGITS.valid.targets).item()
            assert trial.metrics["loss"] == pytest.approx(found, rel=2e-5)


def test_data_may_depend_on_the_configuration() -> None:
    """A function of it is called once for each set of values that it reads."""
    built = []

    def data(config: dict[str, Any]) -> lt.Splits:
        built.append(config["batch_size"])
        scale = 2.0 if config["doubled"] else 1.0
        train = lt.Split(DIGITS.train.inputs * scale, DIGITS.train.targets)
        rows = [(train.inputs[i], train.targets[i]) for i in range(96)]
        return lt.Splits(DataLoader(rows, batch_size=config["batch_size"], shuffle=True), DIGITS.valid)

    space = lt.Space(lr=SPACE.domains["lr"], batch_size=lt.Choice([16, 32]), doubled=lt.Choice([False, True]))
    given = task(data, space=space)
    study = lt.tune(given, trials=12, epochs=2, seed=0, progress=False)
    assert {trial.steps for trial in study.trials} == {2 * 96 // 16, 2 * 96 // 32}
    assert len(built) <= 4 + 1
    for doubled in (True, False):  # the first time that data are asked for, too
        static = {name for name, _ in given.static({"lr": 0.1, "batch_size": 16, "doubled": doubled})}
        assert static == {"doubled", "batch_size"}
    fresh = task(data, space=space)
    assert {name for name, _ in fresh.static({"lr": 0.1, "batch_size": 16, "doubled": True})} == static


def test_a_last_row_is_never_measured_alone() -> None:
    """Batch norm that normalises by its batch takes no single row: 1,001 rows are measured in even parts."""

    def normed(config: dict[str, Any]) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 10))

    rows = [i % 96 for i in range(1001)]
    data = lt.Splits(DIGITS.train, lt.Split(DIGITS.train.inputs[rows], DIGITS.train.targets[rows]))
    study = lt.tune(task(data, model=normed), trials=2, steps=2, seed=0, progress=False)
    assert [trial.status for trial in study.trials] == ["ok", "ok"]


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(x)
        return output - output.mean(0)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))


@pytest.mark.parametrize("make", [normed, Centred])
def test_outputs_that_depend_on_the_other_rows_are_those_of_the_whole_split(make: Callable[[], nn.Module]) -> None:
    """In memory by all rows at once; by a loader by its own minibatches, as a plain loop does it."""
    x = torch.randn(1300, 5, generator=torch.Generator().manual_seed(0)).cumsum(0) / 20
    y = (x.sum(1) > 0).long()
    loader = DataLoader(TensorDataset(x, y), 50)
    for valid, parts in ((lt.Split(x, y), [slice(None)]), (loader, [slice(i, i + 50) for i in range(0, 1300, 50)])):
        data = lt.Splits((x[:64], y[:64]), valid)
        given = lt.TorchTask(SPACE, lambda config: make(), data, loss=F.cross_entropy, optimizer=torch.optim.SGD)
        study = lt.tune(given, trials=2, epochs=1, seed=0, progress=False)
        model = study.model()
        with torch.no_grad():
            output = torch.cat([model(x[part]) for part in parts])
        assert study.best is not None
        assert study.best.value == pytest.approx(float(F.cross_entropy(output, y)), rel=1e-6)


class Named(Dataset):
    """Texts beside numbers; the last minibatch has fewer of them."""

    def __init__(self, rows: int, letter: str) -> None:
        self.rows, self.letter = rows, letter

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": DIGITS.train.inputs[i], "text": self.letter * (i % 5), "tags": [self.letter, str(i)]}


class Reading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(65, 10)

    def forward(self, x: Tensor, text: list[str], tags: Any) -> Tensor:
        return self.layer(torch.cat((x, torch.tensor([[float(len(each))] for each in text])), 1))


def test_texts_and_sparse_matrices_of_a_minibatch_reach_model_and_loss() -> None:
    def lengths(output: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(output, torch.tensor([len(each) for each in batch["text"]]))

    given = {"space": SPACE, "optimizer": torch.optim.SGD, "batch_size": 16}
    data = lt.Splits(Named(48, "a"), Named(70, "b"))
    one = lt.TorchTask(model=lambda config: Reading(), data=data, loss=lengths, **given)
    study = lt.tune(one, trials=2, epochs=2, seed=0, progress=False)
    rows = [Named(70, "b")[i] for i in range(70)]
    with torch.no_grad():
        output = study.model()(torch.stack([row["x"] for row in rows]), [row["text"] for row in rows], None)
    assert study.best is not None
    expected = F.cross_entropy(output, torch.tensor([len(row["text"]) for row in rows]))
    assert study.best.value == pytest.approx(float(expected), rel=1e-6)

    def neighbours(rows: list[int]) -> Any:
        x = DIGITS.train.inputs[rows]
        return {"x": x, "matrix": (x @ x.T > 20).float().to_sparse()}, DIGITS.train.targets[rows]

    def forward(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        return model(torch.sparse.mm(inputs["matrix"], inputs["x"]) / 16)

    loader = DataLoader(range(48), 16, collate_fn=neighbours)  # type: ignore[arg-type]
    given |= {"batch_size": None, "forward": forward, "model": net, "data": lt.Splits(loader, loader)}
    found = []
    for width in (2, 1):
        executor = lt.execute.Local(width=width)
        task = lt.TorchTask(loss=F.cross_entropy, **given)
        study = lt.tune(task, trials=2, epochs=2, seed=0, progress=False, executor=executor)
        found.append([result.metrics for result in study.history.results if result is not None])
    assert found[0] == found[1]
    batches = [neighbours(list(range(i, i + 16))) for i in (0, 16, 32)]
    with torch.no_grad():
        output = torch.cat([forward(study.model(), inputs) for inputs, _ in batches])
    assert study.best is not None
    assert study.best.value == pytest.approx(float(F.cross_entropy(output, DIGITS.train.targets[:48])), rel=1e-6)


def test_nests_arrays_and_pairs_are_tensors_in_memory() -> None:
    inputs, targets = DIGITS.train.inputs.numpy(), DIGITS.train.targets.numpy()
    dataset = TensorDataset(DIGITS.train.inputs, DIGITS.train.targets)
    for part in ((inputs, targets), dataset, lt.Split(inputs, targets)):
        splits = lt.Splits(train=part, valid=part)
        assert isinstance(splits.train, lt.Split) and torch.equal(splits.train.inputs, DIGITS.train.inputs)
        assert splits.test is None
    nest = lt.Split({"a": inputs, "b": (inputs, inputs)}, {"y": targets, "weight": np.ones(96, np.float32)})
    assert len(nest) == 96 and len(nest.subset(5).inputs["b"][1]) == 5
    assert task((DIGITS.train, DIGITS.valid)).data.test is None
    assert task({"train": DIGITS.train, "valid": DIGITS.valid, "test": DIGITS.test}).data.test is DIGITS.test


X, Y = DIGITS.train.inputs, DIGITS.train.targets
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "lengths": (lambda: lt.Split((X, X[:5]), Y), "differ in their first axis"),
    "no row": (lambda: lt.Split(X[:0], Y[:0]), "no row"),
    "words": (lambda: lt.Split(np.array(["a", "b"]), np.zeros(2)), "an array of <U1"),
    "a sparse tensor": (lambda: lt.Split({"x": X.to_sparse()}, Y), "a sparse tensor among the inputs"),
    "a nested tensor": (
        lambda: (
            task(
                lt.Splits(
                    *[
                        DataLoader(
                            range(96),
                            16,
                            collate_fn=lambda rows: torch.nested.nested_tensor([X[:2]], layout=torch.jagged),
                        )
                    ]
                    * 2
                )
            )  # type: ignore[arg-type]
            .sources({})
            .check()
        ),
        "a minibatch is a nested tensor",
    ),
    "a fault in the dataset": (
        lambda: task(lt.Splits([{"x": X[0].to_sparse()}] * 64, DIGITS.valid)).sources({}).check(),
        "reading its first rows fails: RuntimeError",
    ),
    "numbers": (lambda: lt.Split([1.0, 2.0], torch.zeros(2)), "a float among the inputs"),
    "another nest": (lambda: lt.Splits(lt.Split((X, X), Y), DIGITS.valid), "a row of valid"),
    "an empty dataset": (lambda: lt.Splits([], DIGITS.valid), "an empty dataset"),
    "a dataset without length": (lambda: lt.Splits(type("D", (Dataset,), {})(), DIGITS.valid), "has no length"),
    "a number": (lambda: lt.Splits(3, DIGITS.valid), "3 is no data"),
    "tensors alone": (lambda: task(X), "no training and validation data"),
    "one part": (lambda: task((DIGITS.train,)), "no training and validation data"),
    "too many minibatches": (lambda: task(DIGITS, batch_size=97), "batch_size=97 with 96 training rows"),
    "two sizes": (lambda: task(with_valid(DataLoader(Moved(), 20)), batch_size=10), "a DataLoader with batch_size=20"),
    "size in the space": (
        lambda: task(
            with_valid(DataLoader(Moved(), 20)), space=lt.Space(lr=SPACE.domains["lr"], batch_size=lt.Int(8, 16))
        ),
        "the DataLoader has one of its own",
    ),
    "an endless stream": (
        lambda: task(with_valid(type("Endless", (IterableDataset,), {"__iter__": lambda self: iter([])})())),
        "does not say how many examples",
    ),
    "other rows": (lambda: task(lt.Splits(Moved(), lt.Split((X, X), Y))).program({"lr": 0.1}), "a minibatch of valid"),
    "own draws": (lambda: task(with_valid(Drawing())).program({"lr": 0.1}), "other numbers when the same rows"),
    "orders of their own": (lambda: task(with_valid(Moved()), own_batches=True), "not in memory"),
    "no test": (lambda: task(with_valid(Moved())).sources({})["test"], "no test split"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_data_is_refused_by_name(case: str) -> None:
    make, text = REFUSED[case]
    with pytest.raises(LuthierError) as caught:
        make()
    assert text in str(caught.value) and isinstance(caught.value, DataError | TaskError)
    assert caught.value.where and caught.value.remedy


def test_a_stream_that_ends_early_and_a_sampler_that_cannot_be_repeated_are_errors() -> None:
    with pytest.raises(DataError, match="ended before the 96 examples"):
        [stream(with_valid(DataLoader(Flowing(60), 20)))(i) for i in range(5)]

    class Own(torch.utils.data.Sampler):
        rng = np.random.default_rng(0)

        def __len__(self) -> int:
            return 96

        def __iter__(self) -> Iterator[int]:
            return iter(self.rng.permutation(96).tolist())

    with pytest.raises(DataError, match="Own gives another order"):
        stream(with_valid(DataLoader(Moved(), 20, sampler=Own())))(0)
