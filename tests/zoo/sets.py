"""Networks on graphs, sets, text and tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.entry import Of, entry, seq

G = "graphs, sets"
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 0]])


def triplet(output: tuple[Tensor, Tensor, Tensor], _: Tensor) -> Tensor:
    return F.triplet_margin_loss(*output)


class Attending(nn.Module):
    """Two heads of graph attention over a dense adjacency with self loops (Veličković et al. 2018)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.w, self.o, self.p = nn.Linear(8, 16, bias=False), nn.Linear(16, 10), p
        self.source, self.sink = nn.Parameter(torch.randn(2, 8) * 0.3), nn.Parameter(torch.randn(2, 8) * 0.3)
        adjacency = torch.eye(8)
        adjacency[EDGES[0], EDGES[1]] = 1.0
        self.register_buffer("adjacency", adjacency)

    def forward(self, x: Tensor) -> Tensor:
        h = self.w(x.view(-1, 8, 8)).unflatten(2, (2, 8)).transpose(1, 2)
        score = (h * self.source[:, None]).sum(3)[..., None] + (h * self.sink[:, None]).sum(3)[..., None, :]
        score = F.leaky_relu(score, 0.2).masked_fill(self.adjacency == 0, float("-inf"))
        score = F.dropout(score.softmax(3), self.p, self.training)
        return self.o(F.elu((score @ h).transpose(1, 2).flatten(2)).mean(1))


class SparseGCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(8, 16), nn.Linear(16, 10)
        self.register_buffer(
            "adjacency", torch.sparse_coo_tensor(EDGES, torch.full((8,), 0.7), (8, 8), check_invariants=True).coalesce()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x.view(-1, 8, 8)).transpose(0, 1)  # nodes first
        h = h + torch.sparse.mm(self.adjacency, h.flatten(1)).view_as(h)
        return self.o(h.relu().mean(0))


entry(G, "dense GCN")(
    lambda p: Of(
        lambda m, x: m.o((m.n @ m.a(x.view(-1, 8, 8))).relu().mean(1)),
        n=torch.eye(8) * 0.5 + 0.1,
        a=nn.Linear(8, 16),
        o=nn.Linear(16, 10),
    )
)
entry(G, "GraphSAGE with index_add")(
    lambda p: Of(
        lambda m, x: m.o((h := m.a(x.view(-1, 8, 8))).index_add(1, m.edges[1], h[:, m.edges[0]]).relu().mean(1)),
        edges=EDGES,
        a=nn.Linear(8, 16),
        o=nn.Linear(16, 10),
    )
)
entry(G, "DeepSets")(
    lambda p: Of(lambda m, x: m.o(m.a(x.view(-1, 8, 8)).relu().sum(1)), a=nn.Linear(8, 16), o=nn.Linear(16, 10))
)
entry(G, "PointNet")(
    lambda p: Of(
        lambda m, x: m.o(m.a(x.view(-1, 8, 8)).amax(2)),
        a=seq(nn.Conv1d(8, 16, 1), nn.BatchNorm1d(16), nn.ReLU()),
        o=nn.Linear(16, 10),
    )
)
entry(G, "Siamese, two inputs, triplet loss", loss=triplet, reads="pair")(
    lambda p: Of(
        lambda m, x, y: (m.a(x), m.a(y), m.a(x.roll(1, 0))), a=seq(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    )
)
entry(G, "dense GAT")(lambda p: Attending(p))
entry(G, "sparse-adjacency GCN")(lambda p: SparseGCN())

# -- text and tables
T = "text, tables"
entry(T, "EmbeddingBag", reads="tokens")(lambda p: seq(nn.EmbeddingBag(17, 16), nn.Linear(16, 10)))
entry(T, "TextCNN", reads="tokens")(
    lambda p: Of(
        lambda m, x: m.o(m.c(m.e(x).mT).relu().amax(2)),
        e=nn.Embedding(17, 8),
        c=nn.Conv1d(8, 16, 3),
        o=nn.Linear(16, 10),
    )
)
entry(T, "sparse Embedding", reads="tokens")(
    lambda p: Of(lambda m, x: m.o(m.e(x).mean(1)), e=nn.Embedding(17, 16, sparse=True), o=nn.Linear(16, 10))
)
entry(T, "wide and deep (dict inputs)", reads="dict")(
    lambda p: Of(
        lambda m, x, y: m.w(x) + m.d(y),
        w=nn.Linear(64, 10),
        d=seq(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(p), nn.Linear(16, 10)),
    )
)
entry(T, "factorisation machine")(
    lambda p: Of(
        lambda m, x: m.l(x) + 0.5 * (((x @ m.v).square() - x.square() @ m.v.square()).view(-1, 10, 4).sum(2)),
        l=nn.Linear(64, 10),
        v=nn.Parameter(torch.randn(64, 40) * 0.05),
    )
)


class Oblivious(nn.Module):
    """Trees of depth three of which each level asks one question, with soft answers (Popov et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.pick, self.leaves = nn.Parameter(torch.randn(64, 5, 3)), nn.Parameter(torch.randn(5, 8, 10) * 0.3)
        self.threshold, self.log_width = nn.Parameter(torch.zeros(5, 3)), nn.Parameter(torch.zeros(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        asked = torch.einsum("bf,ftd->btd", x, self.pick.softmax(0))
        right = torch.sigmoid((asked - self.threshold) * torch.exp(-self.log_width))
        a, b, c = torch.stack([right, 1 - right], 3).unbind(2)
        reached = torch.einsum("bti,btj,btk->btijk", a, b, c).flatten(2)
        return torch.einsum("btl,tlo->bo", reached, self.leaves)


def sparsemax(z: Tensor) -> Tensor:
    """The projection onto the simplex (Martins and Astudillo 2016)."""
    ordered = z.sort(-1, descending=True).values
    sums, k = ordered.cumsum(-1) - 1, torch.arange(1, z.shape[-1] + 1)
    size = (k * ordered > sums).sum(-1, keepdim=True)
    return (z - sums.gather(-1, size - 1) / size).clamp(min=0)


class Masked(nn.Module):
    """Steps that each look at the features a mask lets through, and use them up (Arik and Pfister 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first = nn.BatchNorm1d(64), nn.Linear(64, 16)
        self.masks = nn.ModuleList(seq(nn.Linear(8, 64), nn.BatchNorm1d(64)) for _ in range(2))
        self.steps = nn.ModuleList(nn.Linear(64, 16) for _ in range(2))
        self.o = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        prior, attention, out = torch.ones_like(x), self.first(x)[:, 8:], 0.0
        for mask, step in zip(self.masks, self.steps, strict=True):
            chosen = sparsemax(mask(attention) * prior)
            prior = prior * (1.5 - chosen)
            decided, attention = step(x * chosen).chunk(2, 1)
            out = out + decided.relu()
        return self.o(out)


entry(T, "neural oblivious trees")(lambda p: Oblivious())
entry(T, "TabNet-like sequential masks", tolerance=1e-3)(lambda p: Masked())
