"""A member run as one function: stacked as alone, and as a plain torch loop has it."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import luthier as lt


class Noisy(nn.Module):
    """Draws by torch's own functions, which no rule of a module sees."""

    def __init__(self):
        super().__init__()
        self.a, self.r, self.b = (
            nn.Linear(64, 32),
            nn.GRU(4, 8, num_layers=2, dropout=0.2, batch_first=True),
            nn.Linear(8, 10),
        )

    def forward(self, x):
        h = F.dropout(self.a(x), 0.2, self.training)
        h = h + 0.1 * torch.randn_like(h) if self.training else h
        return self.b(self.r(h.view(-1, 8, 4))[0][:, -1])


def tune(width, **settings):
    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-3, 1e-2, log=True)),
        model=lambda config: Noisy(),
        data=lt.data.digits(flat=True),
        loss=F.cross_entropy,
        batch_size=50,
        **settings,
    )
    executor = lt.execute.Local(width=width)
    return lt.tune(task, "random", trials=4, steps=6, seed=0, progress=False, executor=executor)


def test_members_that_draw_are_the_same_alone_and_stacked():
    alone, both = (tune(width, optimizer=lt.optim.adam) for width in (1, 4))
    assert "vmap" in both.execution
    assert [trial.metrics for trial in alone.trials] == [trial.metrics for trial in both.trials]
    for a, b in zip(alone.model().parameters(), both.model().parameters(), strict=True):
        assert torch.equal(a, b)


class Graph(nn.Module):
    """Rows that are mixed by a sparse adjacency, drawn anew for each member, which training makes sparser."""

    def __init__(self, layout):
        super().__init__()
        self.body = nn.Linear(64, 10)
        dense = torch.rand(10, 10) * (torch.rand(10, 10) < 0.4)
        self.register_buffer("adjacency", dense.to_sparse(layout=layout))

    def forward(self, x):
        return self.body(x) + torch.sparse.mm(self.adjacency, self.body(x).t()).t()


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_buffers_are_a_plain_loops(layout):
    """They differ in their number of entries from member to member, and come back sparse."""
    digits = lt.data.digits(flat=True, train=96, valid=64)
    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-2, 1e-1, log=True)), model=lambda c: Graph(layout), data=digits,
        loss=F.cross_entropy, batch_size=96,
    )  # fmt: skip
    study = lt.tune(task, trials=3, steps=4, seed=5, progress=False)
    models = []
    for trial in study.trials:
        torch.manual_seed(lt.seeds.Seeds(5).key(trial.number, "train"))
        plain = Graph(layout)
        optimizer = torch.optim.SGD(plain.parameters(), lr=trial.config["lr"])
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(plain(digits.train.inputs), digits.train.targets).backward()
            optimizer.step()
        found = F.cross_entropy(plain(digits.valid.inputs), digits.valid.targets).item()
        assert trial.metrics["loss"] == pytest.approx(found, rel=1e-5)
        models.append(plain)
    best = study.model()
    assert best.adjacency.layout == layout
    assert torch.equal(best.adjacency.to_dense(), models[study.best.number].adjacency.to_dense())
    assert len({int((model.adjacency.to_dense() != 0).sum()) for model in models}) > 1


def test_a_network_trains_in_training_mode_whatever_mode_it_was_made_in():
    def losses(mode):
        task = lt.TorchTask(
            space=lt.Space(lr=lt.Float(1e-3, 1e-2, log=True)),
            model=lambda config: nn.Sequential(nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10)).train(mode),
            data=lt.data.digits(flat=True),
            loss=F.cross_entropy,
            batch_size=50,
            evaluate_every=0.1,
        )
        found = lt.tune(task, "random", trials=2, steps=6, seed=0, progress=False)
        return [report.metrics["train_loss"] for reports in found.history.reports.values() for report in reports]

    assert losses(True) == losses(False)


def test_the_first_steps_do_not_wait_for_torch_s_compiler():
    """Torch imports it, which takes a second, for each kind of dispatch mode that does not say otherwise."""
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import torch, luthier as lt
task = lt.TorchTask(space=lt.Space(lr=lt.Float(0.01, 0.1)), data=lt.data.digits(flat=True), batch_size=50,
                    model=lambda config: torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(64, 10)),
                    loss=torch.nn.functional.cross_entropy)
study = lt.tune(task, "random", trials=2, steps=3, progress=False)
assert "eager" in study.execution, study.execution
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Encoder(nn.Module):
    """Sequences as many users have them: attention with its stock dropout."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


@pytest.mark.parametrize(("length", "form"), [(2, "vmap"), (32, "loop")])
def test_spare_members_are_trained_only_where_operators_are_small(length, form):
    """One whose operators take long was trained with sixteen members that are thrown away: eight times slower."""
    split = lt.data.Split(torch.randn(32, length, 32), torch.randint(10, (32,)))
    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-3, 1e-2, log=True)), model=lambda c: Encoder(),
        data=lt.data.Splits(split, split), loss=F.cross_entropy, batch_size=16,
    )  # fmt: skip
    assert task.program({"lr": 1e-3}).execution.form == form
