"""Random numbers inside a training step, as a pure function of (key, step, site) in integer tensors.

Torch's generators have a hidden state: a member alone, the same member in a stack, and the same step traced or resumed
would each draw something else. Here every number is computed from the member's key, its step and the place of the draw,
so all of these agree bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 24  # of a number in [0, 1): all that a float32 holds
KEPT = 1 << 21  # elements whose hashes are kept: 16 MiB
_HALF = 1 << (BITS - 1)

# Odd 64-bit constants, written as signed: the first two are of MurmurHash3's finaliser (Appleby 2011, public domain),
# the third is 2^64 / golden ratio, and the others are the leading hexadecimal digits of pi.
_FIRST, _SECOND = 0xFF51AFD7ED558CCD - (1 << 64), 0xC4CEB9FE1A85EC53 - (1 << 64)
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_KEY, _STEP, _SITE = 0x243F6A8885A308D3, 0x13198A2E03707345, 0x24093822299F31D1


@dataclass(frozen=True)
class Noise:
    """The randomness of one training step of a stack.

    Element j of member k is ``(m_k · a_j + c_k) mod 2^64``, of which the leading 24 bits are used: ``a_j`` is a hash of
    j, the same for all members and steps (so that a traced step computes it once), while ``m_k`` and ``c_k`` are hashes
    of (key, step, site). For fixed a_j below 2^40 and uniform m, c any two elements are exactly independent, and a draw
    costs one multiplication an element rather than a whole hash.

    Args:
        key: One integer a member, (members,) int64.
        step: Steps done by each member, (members,) int64.
        site: Added to the site of each draw: sets the draws of one caller apart from those of another.
        differentiable: Random layers give their output a derivative by their rate. The numbers are the same.

    Examples:
        >>> noise = Noise(torch.tensor([7, 8]), torch.tensor([0, 0]))
        >>> noise.uniform(0, (2,)).shape
        torch.Size([2, 2])

    References:
        Dietzfelbinger 1996, Universal hashing and k-wise independent random variables via integer arithmetic without
        primes.
    """

    key: Tensor  # (members,)
    step: Tensor  # (members,)
    site: int = 0
    differentiable: bool = False

    def bits(self, site: int, shape: Sequence[int], *, batch_last: bool = False) -> Tensor:
        """Random 64-bit integers, (members, \\*shape); the leading 24 bits are sound, the trailing ones are not.

        Args:
            site: The place of the draw: draws of unequal sites are independent.
            shape: Shape of one member's draw.
            batch_last: Return (members, \\*shape reversed), the same numbers transposed.
        """
        count, device = math.prod(shape), self.key.device
        # a trace hoists the hash itself, and must not see a tensor from outside of it
        traced = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
        element = (_kept if count <= KEPT and not traced else _elements)(count, device).view(tuple(shape))
        if batch_last:
            element = element.permute(*reversed(range(element.ndim))).contiguous()
        return self._of(element, (self.site + site + 1) * _SITE)

    def _of(self, element: Tensor, place: int) -> Tensor:
        """``m_k · a_j + c_k`` at a place for hashes ``a_j``."""
        state = self.key * _KEY + self.step * _STEP + _signed(place)
        multiplier, increment = _mix(torch.stack((state, state + _GOLDEN))).view(2, -1, *(1,) * element.ndim).unbind(0)
        return torch.addcmul(increment, multiplier, element)

    def uniform(self, site: int, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in [0, 1), (members, \\*shape), multiples of 2^-24.

        Args:
            site: The place of the draw: draws of unequal sites are independent.
            shape: Shape of one member's draw.
            dtype: Type of the result.
        """
        number = (self.bits(site, shape) >> (64 - BITS)).to(dtype)  # in [-2^23, 2^23): exact, as all that follows
        return number * 2.0**-BITS + 0.5

    def normal(self, site: int, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers, (members, \\*shape), at most 5.3 in magnitude.

        Args:
            site: The place of the draw: draws of unequal sites are independent.
            shape: Shape of one member's draw.
            dtype: Type of the result.
        """
        number = (self.bits(site, shape) >> (64 - BITS)).to(dtype)
        return torch.erfinv((number + 0.5) * 2.0 ** (1 - BITS)) * math.sqrt(2)  # the half keeps it off -1 and 1

    def keep(self, site: int, shape: Sequence[int], rate: Tensor | float, *, batch_last: bool = False) -> Tensor:
        """True with probability ``1 - rate``, (members, \\*shape) bool: where ``uniform(site, shape) >= rate``.

        Args:
            site: The place of the draw: draws of unequal sites are independent.
            shape: Shape of one member's draw.
            rate: A probability, or one a member, (members,), in [0, 1). At 1 the result is undefined.
            batch_last: Return (members, \\*shape reversed), the same values transposed.
        """
        bits = self.bits(site, shape, batch_last=batch_last)
        if isinstance(rate, Tensor):
            number = (rate.detach() * 2.0**BITS).ceil().to(torch.int64)
            return bits >= ((number - _HALF) << (64 - BITS)).view(-1, *(1,) * len(shape))
        return bits >= (math.ceil(rate * 2.0**BITS) - _HALF) << (64 - BITS)


class Lone(Noise):
    """The noise of one member, whose key and step are read: the same numbers, at a fraction of the calls."""

    def __init__(self, noise: Noise) -> None:
        super().__init__(noise.key, noise.step, noise.site, noise.differentiable)
        object.__setattr__(self, "_state", int(noise.key) * _KEY + int(noise.step) * _STEP)

    def _of(self, element: Tensor, place: int) -> Tensor:
        state: int = self._state + place  # type: ignore[attr-defined]
        multiplier, increment = (_mix_number(state + more) for more in (0, _GOLDEN))
        return (element * multiplier).add_(increment).unsqueeze(0)


def _elements(count: int, device: torch.device) -> Tensor:
    """The hashes a_j of 40 bits, (count,)."""
    return _mix(torch.arange(1, count + 1, device=device) * _GOLDEN) >> 24


def _kept(count: int, device: torch.device) -> Tensor:
    """:func:`_elements`, which cost most of a draw, kept for the next one: those of fewer are the first of them."""
    if device not in _KEPT or len(_KEPT[device]) < count:
        with torch.inference_mode(False):
            _KEPT[device] = _elements(1 << (count - 1).bit_length(), device)
    return _KEPT[device][:count]


_KEPT: dict[torch.device, Tensor] = {}


def _signed(number: int) -> int:
    """The 64-bit integer with the bits of ``number``."""
    number %= 1 << 64
    return number - (number >> 63 << 64)


def _mix(state: Tensor) -> Tensor:
    """A scrambling of 64-bit integers, all but one-to-one: torch's shift keeps the sign, which costs a bit or two."""
    state = (state ^ (state >> 33)) * _FIRST
    return (state ^ (state >> 33)) * _SECOND


def _mix_number(state: int) -> int:
    """:func:`_mix` of a number of Python."""
    state = _signed(state)
    state = _signed((state ^ (state >> 33)) * _FIRST)
    return _signed((state ^ (state >> 33)) * _SECOND)
