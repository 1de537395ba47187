"""Recurrent networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.entry import Of, entry, error, next_token

R = "recurrent"


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **settings: Any) -> None:
        super().__init__()
        self.r = kind(8, 12, batch_first=True, **settings)
        self.o = nn.Linear(24 if settings.get("bidirectional") else 12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.r(x.view(-1, 8, 8))[0][:, -1])


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r, self.o = nn.GRU(8, 12, batch_first=True, bidirectional=True), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 8, 8)
        lengths = torch.arange(len(x)) % 5 + 4
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.o(nn.utils.rnn.pad_packed_sequence(self.r(packed)[0], batch_first=True)[0].mean(1))


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.o = nn.LSTMCell(8, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), 12)
        for step in x.view(-1, 8, 8).unbind(1):
            h, c = self.cell(step, (h, c))
        return self.o(h)


class LanguageModel(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.e, self.drop = nn.Embedding(17, 16), nn.Dropout(p)
        self.r, self.o = nn.LSTM(16, 16, 2, dropout=p, batch_first=True), nn.Linear(16, 17)
        self.o.weight = self.e.weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x[:, :20]
        return self.o(self.drop(self.r(self.e(x[:, :-1]))[0])), x[:, 1:]


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.d, self.o = nn.GRU(8, 12, batch_first=True), nn.GRUCell(8, 12), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 8, 8)
        memory, h = self.e(x)
        h, found = h[0], []
        for step in x.unbind(1)[:-1]:
            h = self.d(step, h)
            weights = torch.softmax((memory @ h.unsqueeze(2)).squeeze(2), 1)
            found.append(self.o(torch.cat([h, (weights.unsqueeze(1) @ memory).squeeze(1)], 1)))
        return torch.stack(found, 1) - x[:, 1:]


def ctc(output: Tensor, target: Tensor) -> Tensor:
    lengths = torch.full((len(target),), 8), torch.ones(len(target), dtype=torch.int64)
    return F.ctc_loss(output.log_softmax(2).transpose(0, 1), target[:, None] + 1, *lengths)


class Scan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d, self.o = (
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Parameter(torch.zeros(8)),
            nn.Linear(8, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 8, 8)
        state, out = torch.zeros_like(x[:, 0]), torch.zeros_like(x)
        for t in range(8):
            gate = torch.sigmoid(self.a(x[:, t]))
            state = state * torch.exp(-F.softplus(self.d) * gate) + self.b(x[:, t]) * gate
            out[:, t] = state
        return self.o(out.mean(1))


class RWKV(nn.Module):
    """Token shift, and a weighted mean of the past that decays exponentially (Peng et al. 2023, eq. 14)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.decay, self.first = (nn.Parameter(torch.full((8,), v)) for v in (0.5, -1.0, 0.3))
        self.k, self.v, self.r, self.out = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.norm, self.o = nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.view(-1, 8, 8))
        mixed = torch.lerp(F.pad(x, (0, 0, 1, -1)), x, self.mix)
        k, v, r = self.k(mixed), self.v(mixed), torch.sigmoid(self.r(mixed))
        a = b = torch.zeros_like(x[:, 0])
        found = []
        for t in range(x.shape[1]):
            now = torch.exp(self.first + k[:, t])
            found.append((a + now * v[:, t]) / (b + now))
            w, e = torch.exp(-torch.exp(self.decay)), torch.exp(k[:, t])
            a, b = w * a + e * v[:, t], w * b + e
        return self.o((x + self.out(r * torch.stack(found, 1))).mean(1))


entry(R, "RWKV-like block")(lambda p: RWKV())
entry(R, "RNN")(lambda p: Recurrent(nn.RNN))
entry(R, "LSTM, two layers, dropout", tolerance=1e-3)(lambda p: Recurrent(nn.LSTM, num_layers=2, dropout=p))
entry(R, "bidirectional GRU, packed sequences")(lambda p: Packed())
entry(R, "LSTMCell in a loop")(lambda p: Cells())
entry(R, "LSTM language model, tied weights", loss=next_token, reads="tokens")(LanguageModel)
entry(R, "seq2seq with attention", loss=error)(lambda p: Seq2Seq())
entry(R, "CTC net", loss=ctc, tolerance=1e-3)(
    lambda p: Of(lambda m, x: m.o(m.r(x.view(-1, 8, 8))[0]), r=nn.GRU(8, 12, batch_first=True), o=nn.Linear(12, 11))
)
entry(R, "neural ODE by Euler steps")(
    lambda p: Of(
        lambda m, x: m.o([h := m.i(x), *[h := h + 0.2 * torch.tanh(m.f(h)) for _ in range(5)]][-1]),
        i=nn.Linear(64, 16),
        f=nn.Linear(16, 16),
        o=nn.Linear(16, 10),
    )
)
entry(R, "selective scan in a loop")(lambda p: Scan())
