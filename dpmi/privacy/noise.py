"""The random sources of a private run: one stream for the noise, one for the draws of buckets."""

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
"""Noise values that the secure source computes at a time; they fit into the processor's cache."""

SAMPLES = 4
"""Gaussian samples in one secure noise value, 2n with n = 2, as in Opacus (arXiv 2107.10138, section 5.1)."""

TWISTER_WORDS = 624
"""Number of 32-bit words in the state of the Mersenne twister."""

KEY_BYTES = 32
"""Length of the key for draws that several secure sources share."""

# Every secure noise value needs tens of random bytes. OpenSSL's generator (AES in counter mode, keyed and rekeyed by
# the operating system, safe after a fork) is many times faster than a system call.
_random_bytes = ssl.RAND_bytes


class NoiseMode(str, Enum):
    """The source of a run's randomness, in words for its statement; the strongest first."""

    SECURE = (
        "OpenSSL's cryptographically secure generator, keyed by the operating system; every noise value is half the "
        "sum of four samples, rounded once, against floating-point attacks (arXiv 2107.10138)"
    )
    ORDINARY = (
        "torch's generator, seeded by the operating system; it is not cryptographically secure, and floating-point "
        "attacks on the noise are not excluded"
    )
    SEEDED = "torch's generator, seeded by the user; anyone who knows the seed can remove the noise"

    def weaker(self, other: NoiseMode) -> NoiseMode:
        """Return the mode of two composed runs: the weaker one."""
        return max(self, other, key=list(NoiseMode).index)


class NoiseSource(ABC):
    """Independent streams for the noise and for the draws; no other part of a run draws from either.

    A forked process gets new streams, or an error: if two processes released values with the same noise, it would
    cancel in their difference.

    Attributes:
        mode: the origin of the randomness.
    """

    mode: NoiseMode

    def __init__(self) -> None:
        self._process = os.getpid()

    @staticmethod
    def of(seed: int | None, *, secure: bool, device: torch.device, stream: int = 0) -> NoiseSource:
        """Return the source for a run.

        Args:
            seed: seed of both streams; None seeds them from the operating system.
            secure: cryptographically secure and safe against floating-point attacks; several times slower.
            device: device of the tensors to fill.
            stream: number of the noise stream of a seed; sources that add noise to parts of one sum need different
                ones. Without a seed, every source has noise of its own.

        Raises:
            ValueError: both a seed and ``secure`` are given.
        """
        if not secure:
            return _TorchSource(seed, device, stream)
        if seed is not None:
            raise ValueError(
                f"seed is {seed} and secure_mode is True, but anyone who knows the seed can remove the noise; omit "
                "seed for a private run, or secure_mode for a repeatable run"
            )
        return _SecureSource()

    @abstractmethod
    def fill_(self, flat: Tensor, std: float) -> None:
        """Overwrite a tensor with independent values of N(0, std^2).

        Args:
            flat: (n,), contiguous, float32 or float64, on the source's device.
            std: standard deviation, at least 0; 0 gives zeros.
        """

    @abstractmethod
    def uniform(self, n: int) -> Tensor:
        """Return independent uniform values in [0, 1), (n,) float64 on the CPU, with a resolution of 2^-53."""

    @abstractmethod
    def key(self) -> Tensor:
        """Return a secret key with which other sources make the same draws, (bytes,) uint8 on the CPU."""

    @abstractmethod
    def follow(self, key: Tensor) -> None:
        """Make the same draws from now on as every source of this mode with the same key; the noise stays separate."""

    @abstractmethod
    def draws_state(self) -> Tensor:
        """Return the state of the stream of draws, (bytes,) uint8 on the CPU; empty if it cannot be repeated."""

    @abstractmethod
    def noise_state(self) -> Tensor:
        """Return the state of the noise stream, (bytes,) uint8 on the CPU; empty if it cannot be repeated.

        Keep it secret: anyone who has it can compute all later noise.
        """

    @abstractmethod
    def load(self, *, draws: Tensor, noise: Tensor) -> None:
        """Restore the states of :meth:`draws_state` and :meth:`noise_state`.

        Two runs that continue from one state draw the same noise, which cancels in the difference of their releases.

        Raises:
            ValueError: a state is from a source of another mode or another kind of device.
        """


class _TorchSource(NoiseSource):
    """Two of torch's generators: one on the CPU for the draws, one on the device for the noise."""

    def __init__(self, seed: int | None, device: torch.device, stream: int = 0) -> None:
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
            self._noise.manual_seed(int(torch.randint(2**62, (), generator=self._draws)) + stream)

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
                "parent; call make_private in the process that trains, with a different seed in each process"
            )
        self._seed()
        self._process = os.getpid()

    def _seed(self) -> None:
        _seed_by_system(self._draws)
        _seed_by_system(self._noise)


class _SecureSource(NoiseSource):
    """Every value is computed from fresh random bytes.

    Opacus discards its first sample, because torch may keep half of a Box-Muller pair for the next call, which is then
    related to an earlier value. Here nothing is kept between calls.

    Draws that several sources share come from SHAKE-256, which is also a secure generator, with 32 random bytes as its
    key.
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
        """Discard the shared key after a fork; OpenSSL reseeds itself."""
        if self._process != os.getpid():
            self._key, self._draws, self._process = None, 0, os.getpid()


def _check_state(name: str, state: Tensor, own: Tensor) -> None:
    if state.shape != own.shape or state.dtype != torch.uint8:
        raise ValueError(
            f"{name} is a state of shape {tuple(state.shape)}, {state.dtype}, but this source has {tuple(own.shape)}, "
            "torch.uint8; resume with the same secure_mode and kind of device as when it was saved"
        )


def _uniform(n: int, device: torch.device) -> Tensor:
    """Return uniform multiples of 2^-53 in [0, 1), (n,) float64."""
    return _fractions(_random_bytes(8 * n), device)


def _fractions(content: bytes, device: torch.device | None = None) -> Tensor:
    bits = torch.frombuffer(bytearray(content), dtype=torch.int64)
    return bits.to(device).bitwise_and_(2**53 - 1).to(torch.float64).mul_(2.0**-53)


def _gaussian(n: int, device: torch.device) -> Tensor:
    """Return standard Gaussian values, (n,) float64, each half the sum of four samples.

    The samples are those of Box and Muller (1958). The two samples of a pair are used in different values, because
    their sum would be equivalent to a single sample with another radius.
    """
    half = -(-n // 2)
    # log(1 - u) with 1 - u >= 2^-53 is never infinite.
    radius = _uniform(SAMPLES * half, device).neg_().log1p_().mul_(-2.0).sqrt_().view(SAMPLES, half)
    angle = _uniform(SAMPLES * half, device).mul_(2.0 * math.pi).view(SAMPLES, half)
    values = torch.cat([angle.cos().mul_(radius).sum(0), angle.sin_().mul_(radius).sum(0)])
    return values[:n].div_(math.sqrt(SAMPLES))


def _seed_by_system(generator: torch.Generator) -> None:
    """Seed with as much randomness as the generator can hold.

    On the CPU this is the whole state of the Mersenne twister: torch uses only 32 bits of a seed there, and an attacker
    can try all 2^32 streams.
    """
    generator.manual_seed(int.from_bytes(os.urandom(8), "little"))
    if generator.device.type == "cpu":
        state = generator.get_state()
        words = torch.frombuffer(bytearray(os.urandom(4 * TWISTER_WORDS)), dtype=torch.int32)
        # The first 24 bytes hold seed and counters; then come the words, 32 bits each, stored in 64.
        state[24 : 24 + 8 * TWISTER_WORDS].view(torch.int64).copy_(words).bitwise_and_(2**32 - 1)
        generator.set_state(state)
