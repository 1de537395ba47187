"""A member run as one function: stacked as alone, and as a plain torch loop has it."""

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
