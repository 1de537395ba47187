"""Networks with attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.entry import Of, entry, next_token, seq

A = "attention"


def encoder(p: float, **settings: Any) -> nn.Module:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 32, p, batch_first=True, **settings), 2, enable_nested_tensor=False
    )


def over_rows(part: nn.Module, call: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return Of(lambda m, x: m.o(call(m, m.e(x.view(-1, 8, 8))).mean(1)), e=nn.Linear(8, 16), t=part, o=nn.Linear(16, 10))


class GPT(nn.Module):
    def __init__(self, p: float, rotary: bool) -> None:
        super().__init__()
        self.p, self.rotary, self.cached = p, rotary, None
        self.e, self.place, self.drop = nn.Embedding(17, 16), nn.Embedding(20, 16), nn.Dropout(p)
        self.n, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = seq(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16), nn.Dropout(p))
        self.o = nn.Linear(16, 17, bias=False)
        self.o.weight = self.e.weight

    def turned(self, x: Tensor) -> Tensor:
        if self.cached is None or len(self.cached[0]) < x.shape[2]:
            angle = torch.outer(torch.arange(x.shape[2]).float(), 100.0 ** -torch.arange(0, 1, 0.5))
            self.cached = angle.cos(), angle.sin()
        (cos, sin), (a, b) = self.cached, x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x[:, :16]
        h = self.e(x[:, :-1])
        h = self.drop(h if self.rotary else h + self.place(torch.arange(h.shape[1])))
        q, k, v = (part.unflatten(2, (4, 4)).transpose(1, 2) for part in self.qkv(self.n(h)).chunk(3, 2))
        if self.rotary:
            q, k = self.turned(q), self.turned(k)
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0, is_causal=True)
        h = h + self.out(a.transpose(1, 2).flatten(2))
        return self.o(h + self.mlp(h)), x[:, 1:]


class Experts(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.sparse = sparse
        self.gate, self.experts = nn.Linear(64, 4), nn.ModuleList(nn.Linear(64, 10) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(1).topk(2, 1)
        out = torch.zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            if self.sparse:
                rows, place = (chosen == i).nonzero(as_tuple=True)
                out = out.index_add(0, rows, expert(x[rows]) * weights[rows, place].unsqueeze(1))
            else:
                out = out + expert(x) * (weights * (chosen == i)).sum(1, keepdim=True)
        return out


class Conformer(nn.Module):
    """Half a feed-forward, attention, a gated convolution, half a feed-forward (Gulati et al. 2020)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.ff = nn.ModuleList(
            seq(nn.LayerNorm(16), nn.Linear(16, 32), nn.SiLU(), nn.Dropout(p), nn.Linear(32, 16)) for _ in range(2)
        )
        self.na, self.attend = nn.LayerNorm(16), nn.MultiheadAttention(16, 4, p, batch_first=True)
        self.nc, self.up = nn.LayerNorm(16), nn.Conv1d(16, 32, 1)
        self.deep = seq(nn.Conv1d(16, 16, 3, padding=1, groups=16), nn.BatchNorm1d(16), nn.SiLU(), nn.Conv1d(16, 16, 1))
        self.last = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.ff[0](x)
        h = self.na(x)
        x = x + self.attend(h, h, h, need_weights=False)[0]
        x = x + self.deep(F.glu(self.up(self.nc(x).mT), 1)).mT
        return self.last(x + 0.5 * self.ff[1](x))


class Block(nn.Module):
    """A multihead attention block of the set transformer (Lee et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.ff = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 16)
        self.a, self.b = nn.LayerNorm(16), nn.LayerNorm(16)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.a(x + self.attend(x, y, y, need_weights=False)[0])
        return self.b(h + self.ff(h).relu())


class SetTransformer(nn.Module):
    """Attention through induced points, pooled by attention from a seed."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.o = nn.Linear(8, 16), nn.Linear(16, 10)
        self.points, self.seed = nn.Parameter(torch.randn(1, 3, 16) * 0.3), nn.Parameter(torch.randn(1, 1, 16) * 0.3)
        self.inward, self.outward, self.pool = Block(), Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x.view(-1, 8, 8))
        x = self.outward(x, self.inward(self.points.expand(len(x), -1, -1), x))
        return self.o(self.pool(self.seed.expand(len(x), -1, -1), x).squeeze(1))


def window(m: Any, x: Tensor) -> Tensor:
    x = x.roll(2, 1).reshape(-1, 4, 16)
    return m.t(x, x, x, need_weights=False)[0].reshape(-1, 8, 16).roll(-2, 1)


entry(A, "MultiheadAttention")(
    lambda p: over_rows(nn.MultiheadAttention(16, 4, p, batch_first=True), lambda m, h: h + m.t(h, h, h)[0])
)
entry(A, "TransformerEncoder, dropout")(lambda p: over_rows(encoder(p), lambda m, h: m.t(h)))
entry(A, "TransformerEncoder, padding mask")(
    lambda p: over_rows(encoder(p), lambda m, h: m.t(h, src_key_padding_mask=torch.arange(8).expand(len(h), 8) >= 6))
)
entry(A, "TransformerEncoder, pre-norm, GELU")(
    lambda p: over_rows(encoder(p, norm_first=True, activation="gelu"), lambda m, h: m.t(h))
)
entry(A, "decoder, causal mask")(
    lambda p: over_rows(
        nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, p, batch_first=True), 1),
        lambda m, h: m.t(h, h, tgt_mask=nn.Transformer.generate_square_subsequent_mask(8)),
    )
)
entry(A, "nn.Transformer", tolerance=1e-3)(
    lambda p: over_rows(nn.Transformer(16, 4, 1, 1, 32, p, batch_first=True), lambda m, h: m.t(h, h.flip(1)))
)
entry(A, "GPT by SDPA, tied weights", loss=next_token, reads="tokens")(lambda p: GPT(p, False))
entry(A, "GPT, rotary embeddings, cache", loss=next_token, reads="tokens")(lambda p: GPT(p, True))
entry(A, "Perceiver cross-attention")(
    lambda p: Of(
        lambda m, x: m.o(m.a(m.q.expand(len(x), 4, 16), h := m.e(x.view(-1, 8, 8)), h)[0].mean(1)),
        q=nn.Parameter(torch.randn(4, 16)),
        e=nn.Linear(8, 16),
        a=nn.MultiheadAttention(16, 2, batch_first=True),
        o=nn.Linear(16, 10),
    )
)
entry(A, "Linformer")(
    lambda p: Of(
        lambda m, x: m.o((torch.softmax(m.q(x := x.view(-1, 8, 8)) @ (k := m.s(x.mT).mT).mT, -1) @ k).mean(1)),
        q=nn.Linear(8, 8),
        s=nn.Linear(8, 3),
        o=nn.Linear(8, 10),
    )
)
entry(A, "Swin window with roll")(lambda p: over_rows(nn.MultiheadAttention(16, 4, batch_first=True), window))
entry(A, "Conformer block", tolerance=1e-3)(lambda p: over_rows(Conformer(p), lambda m, h: m.t(h)))
entry(A, "set transformer", tolerance=1e-3)(lambda p: SetTransformer())
entry(A, "experts, dense routing")(lambda p: Experts(False))
entry(A, "experts with nonzero")(lambda p: Experts(True))
entry(A, "memory with topk and gather")(
    lambda p: Of(
        lambda m, x: m.o(
            torch.gather(h := m.e(x.view(-1, 8, 8)), 1, m.s(h).topk(3, 1).indices.expand(-1, -1, 16)).mean(1)
        ),
        e=nn.Linear(8, 16),
        s=nn.Linear(16, 1),
        o=nn.Linear(16, 10),
    )
)
