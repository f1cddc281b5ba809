"""The sources of randomness of a private run: its noise, and the draws of its buckets."""

from __future__ import annotations

import hashlib
import math
import os
import ssl
from abc import ABC, abstractmethod
from enum import Enum

import torch
from torch import Tensor

CHUNK = 2**16
"""Noise values that the secure source computes at a time: few enough for the processor's cache."""

SAMPLES = 4
"""Gaussian samples in one secure noise value, 2n with n = 2, as in Opacus (arXiv 2107.10138, section 5.1)."""

TWISTER_WORDS = 624
"""Of 32 bits, in the state of the Mersenne twister."""

KEY_BYTES = 32
"""Of the draws that several secure sources have in common."""

# Tens of bytes of randomness go into every secure noise value. OpenSSL's generator (AES in counter mode, keyed and
# rekeyed by the operating system, safe after a fork) makes them many times as fast as a system call does.
_random_bytes = ssl.RAND_bytes


class NoiseMode(str, Enum):
    """Where the randomness of a run came from, in words for its statement; the strongest first."""

    SECURE = (
        "OpenSSL's cryptographically secure generator, keyed by the operating system; every noise value is half the "
        "sum of four samples, rounded once, against floating-point attacks (arXiv 2107.10138)"
    )
    ORDINARY = (
        "torch's generator, seeded by the operating system; it is not cryptographically secure, and floating-point "
        "attacks on the noise were not excluded"
    )
    SEEDED = "torch's generator, seeded by the user; whoever knows the seed can remove the noise"

    def weaker(self, other: NoiseMode) -> NoiseMode:
        """The mode of two runs together."""
        return max(self, other, key=list(NoiseMode).index)


class NoiseSource(ABC):
    """Independent streams for the noise and for the draws; no other part of a run draws from either.

    A process that is forked from the source's own has streams of its own, or none: what two processes release with the
    same noise has none in its difference.

    Attributes:
        mode: where they come from.
    """

    mode: NoiseMode

    def __init__(self) -> None:
        self._process = os.getpid()

    @staticmethod
    def of(seed: int | None, *, secure: bool, device: torch.device) -> NoiseSource:
        """The source that a run asks for.

        Args:
            seed: of both streams; None leaves it to the operating system.
            secure: cryptographically secure and safe against floating-point attacks; several times as slow.
            device: of the tensors that are filled.

        Raises:
            ValueError: both a seed and ``secure``.
        """
        if not secure:
            return _TorchSource(seed, device)
        if seed is not None:
            raise ValueError(
                f"seed is {seed} and secure_mode is True, but whoever knows a seed can remove the noise; leave out "
                "the seed for a private run, or secure_mode for one that can be repeated"
            )
        return _SecureSource()

    @abstractmethod
    def fill_(self, flat: Tensor, std: float) -> None:
        """Overwrite with independent N(0, std^2).

        Args:
            flat: (n,), contiguous, float32 or float64, on the source's device.
            std: standard deviation, at least 0; of 0, the noise is zero.
        """

    @abstractmethod
    def uniform(self, n: int) -> Tensor:
        """Independent draws from [0, 1), (n,) float64 on the CPU, with a resolution of 2^-53."""

    @abstractmethod
    def key(self) -> Tensor:
        """What makes others draw as this source does, (bytes,) uint8 on the CPU; as secret as the draws."""

    @abstractmethod
    def follow(self, key: Tensor) -> None:
        """Draw from here on what every source of this mode draws that follows the same key. Noise stays its own."""

    @abstractmethod
    def draws_state(self) -> Tensor:
        """Where the stream of the draws is, (bytes,) uint8 on the CPU; empty if it cannot be repeated."""

    @abstractmethod
    def noise_state(self) -> Tensor:
        """Where the stream of the noise is, (bytes,) uint8 on the CPU; empty if it cannot be repeated.

        It is as secret as the noise: whoever has it can compute all that follows.
        """

    @abstractmethod
    def load(self, *, draws: Tensor, noise: Tensor) -> None:
        """Go on where :meth:`draws_state` and :meth:`noise_state` were called.

        What two runs draw from one state is the same noise, which cancels in the difference of what they release.

        Raises:
            ValueError: a state is of a source of another mode or on another kind of device.
        """


class _TorchSource(NoiseSource):
    """Two of torch's generators: one on the CPU for the draws, one on the device for the noise."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        super().__init__()
        self._draws = torch.Generator()
        self._noise = torch.Generator(device)
        if seed is None:
            self.mode = NoiseMode.ORDINARY
            self._seed()
        else:
            self.mode = NoiseMode.SEEDED
            self._draws.manual_seed(seed)
            # The first output of the sampling stream seeds the noise: two streams, one argument.
            self._noise.manual_seed(int(torch.randint(2**62, (), generator=self._draws)))

    def fill_(self, flat: Tensor, std: float) -> None:
        self._after_fork()
        flat.normal_(0.0, std, generator=self._noise)

    def uniform(self, n: int) -> Tensor:
        self._after_fork()
        return torch.rand(n, dtype=torch.float64, generator=self._draws)

    def key(self) -> Tensor:
        return self.draws_state()

    def follow(self, key: Tensor) -> None:
        self._after_fork()
        self._draws.set_state(key)

    def draws_state(self) -> Tensor:
        self._after_fork()
        return self._draws.get_state()

    def noise_state(self) -> Tensor:
        self._after_fork()
        return self._noise.get_state()

    def load(self, *, draws: Tensor, noise: Tensor) -> None:
        _check_state("draws", draws, self.draws_state())
        _check_state("noise", noise, self.noise_state())
        self._draws.set_state(draws)
        self._noise.set_state(noise)

    def _after_fork(self) -> None:
        if self._process == os.getpid():
            return
        if self.mode is NoiseMode.SEEDED:
            raise RuntimeError(
                "this process was forked after make_private, and would repeat the seeded noise and draws of its "
                "parent; call make_private in the process that trains, each with a seed of its own"
            )
        self._seed()
        self._process = os.getpid()

    def _seed(self) -> None:
        _seed_by_system(self._draws)
        _seed_by_system(self._noise)


class _SecureSource(NoiseSource):
    """Every value is made of fresh random bytes.

    Opacus throws its first sample away, because torch may keep half of a Box-Muller pair for the next call, which is
    then known to be related to an earlier one. Nothing is kept between calls here.

    Draws that several sources are to have in common come from SHAKE-256 instead, a secure generator too, with 32
    such bytes as its key.
    """

    mode = NoiseMode.SECURE

    def __init__(self) -> None:
        super().__init__()
        self._key: bytes | None = None
        self._draws = 0

    def fill_(self, flat: Tensor, std: float) -> None:
        # Metal has no float64.
        device = torch.device("cpu") if flat.device.type == "mps" else flat.device
        for start in range(0, len(flat), CHUNK):
            chunk = flat[start : start + CHUNK]
            chunk.copy_(_gaussian(len(chunk), device).mul_(std))

    def uniform(self, n: int) -> Tensor:
        self._after_fork()
        if self._key is None:
            return _uniform(n, torch.device("cpu"))
        self._draws += 1
        return _fractions(hashlib.shake_256(self._key + self._draws.to_bytes(8, "little")).digest(8 * n))

    def key(self) -> Tensor:
        self._after_fork()
        if self._key is None:
            self._key = _random_bytes(KEY_BYTES)
        return torch.frombuffer(bytearray(self._key + self._draws.to_bytes(8, "little")), dtype=torch.uint8)

    def follow(self, key: Tensor) -> None:
        self._after_fork()
        content = bytes(key.tolist())
        self._key, self._draws = content[:KEY_BYTES], int.from_bytes(content[KEY_BYTES:], "little")

    def draws_state(self) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    noise_state = draws_state

    def load(self, *, draws: Tensor, noise: Tensor) -> None:
        _check_state("draws", draws, self.draws_state())
        _check_state("noise", noise, self.noise_state())

    def _after_fork(self) -> None:
        """Forget the common key; OpenSSL sees to the rest."""
        if self._process != os.getpid():
            self._key, self._draws, self._process = None, 0, os.getpid()


def _check_state(name: str, state: Tensor, own: Tensor) -> None:
    if state.shape != own.shape or state.dtype != torch.uint8:
        raise ValueError(
            f"{name} is a state of shape {tuple(state.shape)}, {state.dtype}, but this source has {tuple(own.shape)}, "
            "torch.uint8; go on with the secure_mode and the kind of device that it was saved with"
        )


def _uniform(n: int, device: torch.device) -> Tensor:
    """Multiples of 2^-53 in [0, 1), (n,) float64."""
    return _fractions(_random_bytes(8 * n), device)


def _fractions(content: bytes, device: torch.device | None = None) -> Tensor:
    bits = torch.frombuffer(bytearray(content), dtype=torch.int64)
    return bits.to(device).bitwise_and_(2**53 - 1).to(torch.float64).mul_(2.0**-53)


def _gaussian(n: int, device: torch.device) -> Tensor:
    """Standard Gaussian values, (n,) float64, each half the sum of four samples.

    The samples are those of Box and Muller (1958). Both of a pair are used, in different values: in one, they would
    be one sample, of another radius.
    """
    half = -(-n // 2)
    # log(1 - u), of 2^-53 at least: never infinite.
    radius = _uniform(SAMPLES * half, device).neg_().log1p_().mul_(-2.0).sqrt_().view(SAMPLES, half)
    angle = _uniform(SAMPLES * half, device).mul_(2.0 * math.pi).view(SAMPLES, half)
    values = torch.cat([angle.cos().mul_(radius).sum(0), angle.sin_().mul_(radius).sum(0)])
    return values[:n].div_(math.sqrt(SAMPLES))


def _seed_by_system(generator: torch.Generator) -> None:
    """Seed with all the randomness that the generator can hold.

    On the CPU that is the whole state of the Mersenne twister: torch keeps only 32 bits of a seed there, and 2^32
    streams can be tried out.
    """
    generator.manual_seed(int.from_bytes(os.urandom(8), "little"))
    if generator.device.type == "cpu":
        state = generator.get_state()
        words = torch.frombuffer(bytearray(os.urandom(4 * TWISTER_WORDS)), dtype=torch.int32)
        # After 24 bytes (seed, counters) come the words, of 32 bits in 64 each.
        state[24 : 24 + 8 * TWISTER_WORDS].view(torch.int64).copy_(words).bitwise_and_(2**32 - 1)
        generator.set_state(state)
