"""Random numbers as pure functions of (seed, stream, step, element): Philox 4x32-10.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
A block cipher of ten rounds turns a 128-bit counter and a 64-bit key into four
32-bit words; nothing is carried from one draw to the next, so any range of elements
can be drawn alone, in any order, on any device, with the same bits::

    key     = (seed low 32, seed high 32)
    counter = (element // 4, stream, step low 32, step high 32)
    element e takes word e % 4 of its block

What uses which stream:

- initial weights: crc32 of the parameter's name, so that a layer added to a network
  leaves the others' initial values alone (step 0);
- shuffling: crc32 of "shuffle", step = epoch;
- dropout: crc32 of the layer's name, step = training step.
"""

from __future__ import annotations

import math
import operator
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convc.ir.errors import ConvcError

Words = NDArray[np.uint32]
Key = tuple[int, int]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ELEMENTS = 1 << 34
"""How many elements one (seed, stream, step) holds: 2**32 blocks of four words."""

_LOW = 0xFFFFFFFF
# 4096 blocks of four 64-bit words and their products stay in a 1 MB L2 cache; as fast
# as any other size tried between 2**10 and 2**15, and the memory stays bounded.
_CHUNK = 4096
# truncated_normal's k-th attempt draws at step + k * 2**48.
_ATTEMPT_BIT = 48


def philox4x32(counter: Words, key: Key) -> Words:
    """The ten-round block function: counter: u32[..., 4] -> random words u32[..., 4].

    ``key`` is two 32-bit words, low word first.
    """
    words = [counter[..., i].astype(np.uint64) for i in range(4)]
    mixed = _mix(words[0], words[1], words[2], words[3], key)
    return np.stack(mixed, axis=-1).astype(np.uint32)


def bits(seed: int, stream: int, step: int, count: int, start: int = 0) -> Words:
    """Elements start .. start+count-1 of the given stream and step, as u32[count].

    ``seed`` and ``step`` are below 2**64, ``stream`` below 2**32, and
    ``start + count`` is at most 2**34; ConvcError otherwise.
    """
    count = _whole("count", count, ELEMENTS)
    start = _whole("start", start, ELEMENTS - count)
    first = start // 4
    blocks = np.arange(first, (start + count + 3) // 4, dtype=np.uint64)
    words = _blocks(seed, stream, step, blocks).reshape(-1)
    return words[start - 4 * first :][:count]


def stream_of(name: str) -> int:
    """The stream that belongs to a name: crc32 of its UTF-8 bytes."""
    return zlib.crc32(name.encode("utf-8"))


def uniform(
    seed: int, stream: int, step: int, count: int, start: int = 0
) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1), multiples of 2**-24, f32[count]."""
    words = bits(seed, stream, step, count, start)
    words >>= np.uint32(8)
    drawn = words.astype(np.float32)
    drawn *= np.float32(2.0**-24)  # in place: fresh memory costs more than arithmetic
    return drawn


def normal(
    seed: int, stream: int, step: int, count: int, start: int = 0
) -> NDArray[np.float32]:
    """Standard normal numbers, f32[count]; element e uses words 2e and 2e+1.

    Box and Muller (1958), computed in float64; ``start + count`` is at most 2**33.
    """
    elements = _pair_elements(count, start)
    return _normal_at(seed, stream, step, elements).astype(np.float32)


def truncated_normal(
    seed: int, stream: int, step: int, count: int, start: int = 0
) -> NDArray[np.float32]:
    """Standard normal numbers redrawn until |z| <= 2, f32[count] (variance 0.774).

    Attempt k of an element is its ``normal`` draw at step + k * 2**48, so every
    element stands alone and a slice agrees with the whole; ``step`` is below 2**48.
    """
    step = _whole("step", step, (1 << _ATTEMPT_BIT) - 1)
    elements = _pair_elements(count, start)
    drawn = _normal_at(seed, stream, step, elements)
    outside = np.flatnonzero(np.abs(drawn) > 2.0)
    attempt = 0
    # Each attempt leaves 4.55 % of the elements: 2**33 of them need about eight.
    while outside.size:
        attempt += 1
        later = step + (attempt << _ATTEMPT_BIT)
        drawn[outside] = _normal_at(seed, stream, later, elements[outside])
        outside = outside[np.abs(drawn[outside]) > 2.0]
    return drawn.astype(np.float32)


def permutation(seed: int, stream: int, step: int, n: int) -> NDArray[np.int64]:
    """A permutation of 0 .. n-1, i64[n]: the stable order of n random 64-bit keys."""
    n = _whole("n", n, ELEMENTS // 2)
    words = bits(seed, stream, step, 2 * n).astype(np.uint64)
    keys = (words[0::2] << np.uint64(32)) | words[1::2]
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


def keep_threshold(keep: float) -> int:
    """The bound below which a word keeps its element: floor(keep * 2**32).

    ``keep`` is in (0, 1]; ConvcError otherwise. keep = 1 gives 2**32, one more than
    any word: compare in 64 bits, or leave the comparison out.
    """
    if not 0.0 < keep <= 1.0:
        raise ConvcError(
            "dropout: the keep probability must lie in (0, 1], "
            f"and keep is {keep!r}; 1 keeps everything"
        )
    return math.floor(keep * 2.0**32)


def fed_threshold(keep: float) -> int:
    """``keep_threshold`` of a share that is known when a program runs, any number.

    keep * 2**32 is exact in float32, so that every backend finds the same bound: 0 for
    a share up to 0, and 2**32 from 1 on, and for NaN.
    """
    return math.floor(max(keep, 0.0) * 2.0**32) if keep < 1 else 1 << 32


def keep_mask(
    seed: int, stream: int, step: int, count: int, keep: float, start: int = 0
) -> NDArray[np.bool_]:
    """Which elements dropout keeps, bool[count]: word < keep_threshold(keep)."""
    return words_below(seed, stream, step, count, keep_threshold(keep), start)


def words_below(
    seed: int, stream: int, step: int, count: int, threshold: int, start: int = 0
) -> NDArray[np.bool_]:
    """Whose word is below ``threshold``, bool[count]."""
    if threshold > _LOW:
        return np.ones(_whole("count", count, ELEMENTS), dtype=np.bool_)
    return bits(seed, stream, step, count, start) < np.uint32(threshold)


def _whole(name: str, value: int, most: int) -> int:
    """``value`` as an int of 0 .. most, or a ConvcError that names it."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = -1
    if not 0 <= whole <= most:
        raise ConvcError(
            f"random numbers: {name} must be a whole number of 0 .. {most}, "
            f"and is {value!r}"
        )
    return whole


def _pair_elements(count: int, start: int) -> NDArray[np.uint64]:
    """The element numbers start .. start+count-1 of a draw of two words each."""
    count = _whole("count", count, ELEMENTS // 2)
    start = _whole("start", start, ELEMENTS // 2 - count)
    return np.arange(start, start + count, dtype=np.uint64)


def _normal_at(
    seed: int, stream: int, step: int, elements: NDArray[np.uint64]
) -> NDArray[np.float64]:
    """The normal draws of the given elements, one by one or all together."""
    pairs = _blocks(seed, stream, step, elements >> np.uint64(1)).reshape(-1, 2, 2)
    which = (elements & np.uint64(1)).astype(np.intp)
    pair = pairs[np.arange(len(elements)), which].astype(np.float64)
    # (word + 1) * 2**-32 lies in (0, 1], so the logarithm is finite.
    radius = np.sqrt(-2.0 * np.log((pair[:, 0] + 1.0) * 2.0**-32))
    drawn: NDArray[np.float64] = radius * np.cos(pair[:, 1] * (2.0 * np.pi * 2.0**-32))
    return drawn


def _blocks(seed: int, stream: int, step: int, blocks: NDArray[np.uint64]) -> Words:
    """The four words of each numbered block, u32[len(blocks), 4]."""
    seed = _whole("seed", seed, (1 << 64) - 1)
    stream = _whole("stream", stream, _LOW)
    step = _whole("step", step, (1 << 64) - 1)
    key = (seed & _LOW, seed >> 32)
    # Length-one words broadcast, so the early rounds do no needless work.
    fixed = [
        np.array([word], dtype=np.uint64) for word in (stream, step & _LOW, step >> 32)
    ]
    out = np.empty((len(blocks), 4), dtype=np.uint32)
    for at in range(0, len(blocks), _CHUNK):
        part = blocks[at : at + _CHUNK]
        for i, word in enumerate(_mix(part, fixed[0], fixed[1], fixed[2], key)):
            out[at : at + _CHUNK, i] = word
    return out


def _mix(c0: Any, c1: Any, c2: Any, c3: Any, key: Key) -> tuple[Any, Any, Any, Any]:
    """Ten rounds on 32-bit words held in uint64, so a product keeps both halves."""
    low, half = np.uint64(_LOW), np.uint64(32)
    m0, m1 = (np.uint64(m) for m in MULTIPLIERS)
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * m0, c2 * m1
        c0, c1 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low
        c2, c3 = (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + WEYL[0]) & _LOW, (k1 + WEYL[1]) & _LOW
    return c0, c1, c2, c3
