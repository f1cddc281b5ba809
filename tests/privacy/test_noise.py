"""Noise and draws: their distributions, where they come from, and what can be repeated."""

from __future__ import annotations

import math
import os
import ssl
import struct
from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dpmi.privacy import noise
from dpmi.privacy.noise import CHUNK, NoiseMode, NoiseSource

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.float64)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
MODES = tuple(NoiseMode)
GENERATED = (NoiseMode.ORDINARY, NoiseMode.SEEDED)
N = 15 * CHUNK + 1  # about 10^6, and the last chunk is not full
RARE = 1e-6  # a p-value; some of these sources differ at every run


def ids(mode: NoiseMode) -> str:
    return mode.name


def source_of(mode: NoiseMode, *, seed: int = 5, device: torch.device = CPU) -> NoiseSource:
    seeds = {NoiseMode.SEEDED: seed}
    source = NoiseSource.of(seeds.get(mode), secure=mode is NoiseMode.SECURE, device=device)
    assert source.mode is mode
    return source


def filled(source: NoiseSource, n: int, *, std: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    flat = torch.full((n,), torch.nan, dtype=dtype)
    source.fill_(flat, std)
    return flat


def uncorrelated(one: Tensor, other: Tensor) -> bool:
    """Values and squares: standard normal values of one radius are uncorrelated, their squares are not."""
    pairs = ((one, other), (one.square(), other.square()), (one.square(), other), (one, other.square()))
    worst = max(abs(float(torch.corrcoef(torch.stack(pair))[0, 1])) for pair in pairs)
    return worst < 5.5 / math.sqrt(len(one))


def normal(values: Tensor, std: float = 1.0) -> bool:
    return bool(stats.kstest(values.double().numpy(), stats.norm(scale=std).cdf).pvalue > RARE)


class Counter:
    """Bytes that are the same from every start; it notes how many are asked for."""

    def __init__(self) -> None:
        self.requests: list[int] = []
        self._numbers = count()

    def __call__(self, n: int) -> bytes:
        self.requests.append(n)
        return np.random.Generator(np.random.PCG64(next(self._numbers))).bytes(n)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counter]:
    def start() -> Counter:
        stream = Counter()
        monkeypatch.setattr(noise, "_random_bytes", stream)
        return stream

    return start


class TestNoise:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("mode", MODES, ids=ids)
    def test_is_normal_with_the_standard_deviation(
        self, mode: NoiseMode, dtype: torch.dtype, device: str
    ) -> None:
        std = 2.5
        flat = torch.full((N,), torch.nan, dtype=dtype, device=device)
        source_of(mode, device=torch.device(device)).fill_(flat, std)
        values = flat.cpu().double()
        assert bool(values.isfinite().all())
        # At this size, a wrong scale by 1 % has a p-value of 10^-5, and by 2 % one of 10^-20.
        assert normal(values, std)
        assert float(values.var()) == pytest.approx(std**2, rel=0.01)
        assert abs(float(values.mean())) < 5.5 * std / math.sqrt(N)
        assert float((values / std).pow(4).mean()) == pytest.approx(3.0, abs=5.5 * math.sqrt(96 / N))

    @pytest.mark.parametrize("mode", MODES, ids=ids)
    def test_of_two_calls_and_of_neighbours_is_independent(self, mode: NoiseMode) -> None:
        source = source_of(mode)
        one, two = filled(source, N), filled(source, N)
        assert uncorrelated(one, two)
        assert uncorrelated(one[1:], one[:-1])
        assert uncorrelated(one[CHUNK:], one[:-CHUNK])

    def test_the_two_samples_of_a_pair_are_independent(self) -> None:
        first, second = filled(source_of(NoiseMode.SECURE), 15 * CHUNK).view(15, 2, -1).unbind(1)
        first, second = first.flatten(), second.flatten()
        assert uncorrelated(first, second)
        assert normal(first)
        assert normal(second)
        assert normal((first + second) / math.sqrt(2))
        assert normal((first - second) / math.sqrt(2))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("mode", MODES, ids=ids)
    def test_of_standard_deviation_zero_is_zero(self, mode: NoiseMode, dtype: torch.dtype) -> None:
        assert torch.equal(filled(source_of(mode), 21, std=0.0, dtype=dtype), torch.zeros(21, dtype=dtype))

    @pytest.mark.parametrize("mode", MODES, ids=ids)
    @pytest.mark.parametrize("n", [0, 1, 2, 15, CHUNK - 1, CHUNK + 1])
    def test_of_any_length_is_all_there(self, mode: NoiseMode, n: int) -> None:
        values = filled(source_of(mode), n)
        assert bool(values.isfinite().all())
        assert len(values.unique()) == n

    @pytest.mark.parametrize("mode", MODES, ids=ids)
    def test_leaves_the_global_generator_alone(self, mode: NoiseMode) -> None:
        before = torch.get_rng_state()
        source = source_of(mode)
        filled(source, 100)
        source.uniform(100)
        assert torch.equal(before, torch.get_rng_state())


class TestDraws:
    @pytest.mark.parametrize("mode", MODES, ids=ids)
    def test_are_uniform_with_53_bits(self, mode: NoiseMode) -> None:
        source = source_of(mode)
        values = source.uniform(N)
        assert (values.shape, values.dtype, values.device) == ((N,), torch.float64, CPU)
        assert float(values.min()) >= 0
        assert float(values.max()) < 1
        assert stats.kstest(values.numpy(), "uniform").pvalue > RARE
        units = values.mul(2.0**53)
        assert torch.equal(units, units.round())
        odd = int(units.to(torch.int64).bitwise_and(1).sum())
        assert stats.binomtest(odd, N, 0.5).pvalue > RARE
        assert uncorrelated(values, source.uniform(N))
        assert uncorrelated(values[1:], values[:-1])

    @pytest.mark.parametrize("mode", MODES, ids=ids)
    def test_are_independent_of_the_noise(self, mode: NoiseMode) -> None:
        source = source_of(mode)
        values = filled(source, N)
        assert uncorrelated(torch.special.ndtri(source.uniform(N).clamp(2.0**-53)), values)


class TestDrawsInCommon:
    @pytest.mark.parametrize("mode", MODES, ids=ids)
    def test_followers_of_a_key_draw_alike_and_never_the_same_twice(self, mode: NoiseMode) -> None:
        source, other = source_of(mode, seed=1), source_of(mode, seed=2)
        key = source.key()
        assert len(key) >= 32
        assert not torch.equal(key, other.key())
        for follower in (source, other):
            follower.follow(key)
        draws, same = ([follower.uniform(10) for _ in range(3)] for follower in (source, other))
        assert all(torch.equal(one, two) for one, two in zip(draws, same, strict=True))
        assert len(torch.cat(draws).unique()) == 30

    @pytest.mark.parametrize("mode", MODES, ids=ids)
    def test_noise_of_followers_is_their_own(self, mode: NoiseMode) -> None:
        one, other = source_of(mode, seed=1), source_of(mode, seed=2)
        other.follow(one.key())
        assert uncorrelated(filled(one, N), filled(other, N))

    def test_are_uniform_in_secure_mode_too(self) -> None:
        source = source_of(NoiseMode.SECURE)
        source.follow(source.key())
        values, more = source.uniform(N), source.uniform(N)
        assert stats.kstest(values.numpy(), "uniform").pvalue > RARE
        assert uncorrelated(values, more)
        assert uncorrelated(values[1:], values[:-1])


class TestSecure:
    def test_bytes_are_those_of_the_cryptographic_generator(self) -> None:
        assert noise._random_bytes is ssl.RAND_bytes

    def test_same_bytes_same_noise(self, counter: Callable[[], Counter]) -> None:
        source, n = source_of(NoiseMode.SECURE), 2 * CHUNK + 3
        counter()
        one, draws = filled(source, n), source.uniform(10)
        counter()
        assert torch.equal(filled(source, n), one)
        assert torch.equal(source.uniform(10), draws)
        assert not torch.equal(filled(source, n), one)

    @pytest.mark.parametrize("n", [1, 6, 7])
    def test_is_the_sum_of_four_samples_halved(self, counter: Callable[[], Counter], n: int) -> None:
        """Box and Muller, one value after another; the bytes are two requests, radii and angles."""
        counter()
        values = filled(source_of(NoiseMode.SECURE), n, std=3.0)
        half = (n + 1) // 2
        stream = Counter()
        uniforms = [
            [(bits & (2**53 - 1)) / 2**53 for bits in struct.unpack(f"={4 * half}Q", stream(32 * half))]
            for _ in range(2)
        ]
        expected = [0.0] * (2 * half)
        for k, (u, v) in enumerate(zip(*uniforms, strict=True)):
            radius = math.sqrt(-2 * math.log(1 - u))
            expected[k % half] += 3.0 / 2 * radius * math.cos(2 * math.pi * v)
            expected[half + k % half] += 3.0 / 2 * radius * math.sin(2 * math.pi * v)
        assert values.tolist() == pytest.approx(expected[:n], rel=1e-12, abs=1e-14)

    def test_is_rounded_once(self, counter: Callable[[], Counter]) -> None:
        source = source_of(NoiseMode.SECURE)
        counter()
        exact = filled(source, 1000, std=0.3)
        counter()
        assert torch.equal(filled(source, 1000, std=0.3, dtype=torch.float32), exact.float())

    def test_nothing_repeats_from_chunk_to_chunk(self, counter: Callable[[], Counter]) -> None:
        counter()
        assert len(filled(source_of(NoiseMode.SECURE), 3 * CHUNK + 5).unique()) == 3 * CHUNK + 5

    def test_requests_do_not_grow_with_the_model(self, counter: Callable[[], Counter]) -> None:
        stream = counter()
        filled(source_of(NoiseMode.SECURE), 10 * CHUNK, dtype=torch.float32)
        assert stream.requests == [16 * CHUNK] * 20  # two for each chunk, 32 bytes for each value in all

    @pytest.mark.parametrize(
        ("byte", "largest"), [(b"\x00", 0.0), (b"\xff", 2 * math.sqrt(2 * 53 * math.log(2)))]
    )
    def test_of_the_most_extreme_bytes_is_finite(
        self, monkeypatch: pytest.MonkeyPatch, byte: bytes, largest: float
    ) -> None:
        monkeypatch.setattr(noise, "_random_bytes", lambda n: byte * n)
        values = filled(source_of(NoiseMode.SECURE), 2)
        assert values.tolist() == pytest.approx([largest, 0.0], rel=1e-12, abs=1e-12)

    def test_with_a_seed_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^seed is 3 and secure_mode is True, .*omit seed for"):
            NoiseSource.of(3, secure=True, device=CPU)


class TestGenerators:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_seed_gives_two_streams(self, dtype: torch.dtype) -> None:
        """The draws are the seed's stream after one number, which seeds the noise; the noise is one call."""
        draws = torch.Generator().manual_seed(7)
        values = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=draws)))
        source = source_of(NoiseMode.SEEDED, seed=7)
        for n in (33, 5):
            expected = torch.empty(n, dtype=dtype).normal_(0.0, 1.5, generator=values)
            assert torch.equal(filled(source, n, std=1.5, dtype=dtype), expected)
            assert torch.equal(source.uniform(n), torch.rand(n, dtype=torch.float64, generator=draws))

    def test_neither_stream_moves_the_other(self) -> None:
        one, other = source_of(NoiseMode.SEEDED), source_of(NoiseMode.SEEDED)
        one.uniform(10)
        assert torch.equal(filled(one, 50), filled(other, 50))
        assert torch.equal(one.uniform(10), other.uniform(20)[10:])

    def test_another_seed_is_another_noise_and_other_draws(self) -> None:
        one, other = source_of(NoiseMode.SEEDED, seed=1), source_of(NoiseMode.SEEDED, seed=2)
        assert uncorrelated(filled(one, N), filled(other, N))
        assert uncorrelated(one.uniform(N), other.uniform(N))

    @pytest.mark.parametrize("mode", [NoiseMode.SECURE, NoiseMode.ORDINARY], ids=ids)
    def test_without_a_seed_no_two_are_alike(self, mode: NoiseMode) -> None:
        one, other = source_of(mode), source_of(mode)
        assert uncorrelated(filled(one, N), filled(other, N))
        assert uncorrelated(one.uniform(N), other.uniform(N))

    def test_the_system_seeds_every_word_of_the_state(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A torch seed is cut to 32 bits on the CPU; numpy's twister with the same words says the same."""
        one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1 + 2**32)
        assert torch.equal(torch.rand(9, generator=one), torch.rand(9, generator=other))

        stream, given = Counter(), []
        monkeypatch.setattr(os, "urandom", lambda n: given.append(stream(n)) or given[-1])
        source = source_of(NoiseMode.ORDINARY)
        monkeypatch.undo()
        assert stream.requests == [8, 4 * 624] * 2
        twister = np.random.RandomState()
        twister.set_state(("MT19937", np.frombuffer(given[1], dtype=np.uint32), 624))
        expected = twister.randint(0, 2**32, 3000, dtype=np.uint32) % 2**20
        draws = torch.Generator()
        draws.set_state(source.draws_state())
        assert torch.randint(2**20, (3000,), generator=draws).tolist() == expected.tolist()

        # The first two numbers of a small normal draw: Box and Muller on 53 bits of two words each.
        twister.set_state(("MT19937", np.frombuffer(given[3], dtype=np.uint32), 624))
        words = twister.randint(0, 2**32, 4, dtype=np.uint32).astype(np.uint64)
        u, v = ((words[::2] << np.uint64(32) | words[1::2]) & np.uint64(2**53 - 1)) / 2.0**53
        radius = math.sqrt(-2 * math.log1p(-v))
        assert filled(source, 2).tolist() == pytest.approx(
            [radius * math.cos(2 * math.pi * u), radius * math.sin(2 * math.pi * u)], rel=1e-12
        )


class TestState:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("before", [0, 7, 40])
    @pytest.mark.parametrize("mode", GENERATED, ids=ids)
    def test_goes_on_bit_for_bit(self, mode: NoiseMode, before: int, device: str) -> None:
        """Seven is odd, and torch keeps the second value of the last pair."""
        on = torch.device(device)
        source = source_of(mode, device=on)
        source.fill_(torch.empty(before, device=on), 1.0)
        source.uniform(before)
        draws, noise = source.draws_state(), source.noise_state()
        for state in (draws, noise):
            assert (state.dtype, state.device, state.ndim) == (torch.uint8, CPU, 1)
        saved = [draws.clone(), noise.clone()]

        def rest(source: NoiseSource) -> list[Tensor]:
            noises = [torch.empty(n, dtype=dtype, device=on) for n in (3, 1000) for dtype in DTYPES]
            for flat in noises:
                source.fill_(flat, 1.5)
            return [*noises, source.uniform(20)]

        expected = rest(source)
        assert all(torch.equal(a, b) for a, b in zip([draws, noise], saved, strict=True))
        again = source_of(mode, seed=6, device=on)
        again.load(draws=draws, noise=noise)
        assert all(torch.equal(a, b) for a, b in zip(rest(again), expected, strict=True))

    def test_of_a_secure_source_is_empty(self, counter: Callable[[], Counter]) -> None:
        source = source_of(NoiseMode.SECURE)
        for state in (source.draws_state(), source.noise_state()):
            assert (state.shape, state.dtype) == ((0,), torch.uint8)
        one = filled(source, 10)
        source.load(draws=source.draws_state(), noise=source.noise_state())
        assert not torch.equal(filled(source, 10), one)

    @pytest.mark.parametrize("mode", MODES, ids=ids)
    def test_of_another_source_is_refused(self, mode: NoiseMode) -> None:
        source = source_of(mode)
        draws, noise = source.draws_state(), source.noise_state()
        size = len(noise)
        for state in (torch.zeros(size + 1, dtype=torch.uint8), torch.zeros(size), noise[None]):
            with pytest.raises(
                ValueError, match=rf"^noise is .*but this source has \({size},\), torch.uint8"
            ):
                source.load(draws=draws, noise=state)
        with pytest.raises(ValueError, match=r"^draws is .*with the same secure_mode and kind of device"):
            source.load(draws=torch.zeros(len(draws) + 1, dtype=torch.uint8), noise=noise)
