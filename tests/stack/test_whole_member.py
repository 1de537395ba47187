"""A member run as one function: stacked as alone, and as a plain torch loop has it."""

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
