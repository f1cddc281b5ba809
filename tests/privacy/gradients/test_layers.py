"""The rows of every kind of layer equal a float64 brute force, whatever the sizes of the buckets.

Modules: dpmi/privacy/gradients/conv.py, dpmi/privacy/gradients/embedding.py, dpmi/privacy/gradients/layer.py,
dpmi/privacy/gradients/linear.py, dpmi/privacy/gradients/normalization.py, dpmi/privacy/gradients/other_layers.py,
dpmi/privacy/gradients/recomputed.py, dpmi/privacy/gradients/spread.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from opacus.layers import DPGRU, DPLSTM, DPMultiheadAttention
from opacus.layers.dp_multihead_attention import SequenceBias
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from dpmi.privacy.gradients.capture import Capture
from dpmi.privacy.gradients.other_layers import other_leaves
from dpmi.privacy.gradients.segments import Segments
from dpmi.privacy.isolation.labels import Records
from dpmi.privacy.isolation.program import Program
from dpmi.privacy.isolation.public import PublicTensors

SIZES = {"ones": [1] * 6, "fours": [4] * 3, "ragged": [1, 1, 2, 5, 5, 17], "one bucket": [7]}
VOCABULARY = 9


class Recurrent(nn.Module):
    """The output of every time step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class State(nn.Module):
    """The last hidden state of a layer that has the records in the second dimension."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1))[1].squeeze(0)


class ZeroState(nn.Module):
    """A cell whose state is made in the forward pass, and filled by index."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.bias = nn.PReLU(3)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.tanh(self.layer(x)) * 2
        out[:, 0] = 0.5
        return self.bias(out + x.new_zeros(len(x), 3))


class Attention(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.layer = DPMultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x)[0]


class Tied(nn.Module):
    """A language model whose last layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        self.last = nn.Linear(4, VOCABULARY, bias=False)
        self.last.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.embedding(tokens).tanh())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).tanh())


class Bilinear(nn.Module):
    """A layer with two inputs, one of them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, input2=x.tanh())


class Scale(nn.Module):
    """What no layer of torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Positioned(nn.Module):
    """A class token in front of a sequence, a position for every entry, and a scale."""

    def __init__(self, *, time_first: bool = False) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.positions = nn.Parameter(torch.randn(1, 4, 4))
        self.scale = nn.Parameter(torch.rand(4))
        self.time_first = time_first

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x.tanh()], dim=1)
        if self.time_first:
            x = x.transpose(0, 1) + self.positions.transpose(0, 1)
            return (self.scale.sigmoid() * x.tanh()).transpose(0, 1)
        return self.scale.sigmoid() * (x + self.positions).tanh()


class LookedUp(nn.Module):
    """Positions of a table, twice; and values that replace those of the records."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.other = nn.Parameter(torch.randn(4))
        self.register_buffer("ids", torch.arange(6))

    def forward(self, x: Tensor) -> Tensor:
        at = self.table(self.ids[: x.shape[1]])
        x = torch.where(x > 0.5, self.other, x * at)
        x += at.tanh()
        return torch.lerp(x, at.unsqueeze(0), 0.3)


class Windows(nn.Module):
    """Attention in windows of each record, with a bias for every pair of positions that a table holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 12)
        self.table = nn.Parameter(torch.randn(5, 2))
        self.register_buffer("pairs", torch.arange(3)[:, None] - torch.arange(3) + 2)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.layer(x.reshape(len(x) * 2, 3, 4)).view(len(x) * 2, 3, 3, 2, 2).permute(2, 0, 3, 1, 4)
        query, key, value = inside.unbind(0)
        bias = self.table[self.pairs.view(-1)].view(3, 3, 2).permute(2, 0, 1).unsqueeze(0)
        out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return out.reshape(len(x), -1)


class Shifted(nn.Module):
    """Attention in the windows of every record, with a bias that is trained and a mask for each window."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(4, 12)
        self.bias = nn.Parameter(torch.randn(2, 3, 3))
        self.register_buffer("mask", torch.randn(2, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.inputs(x).view(-1, 3, 3, 2, 2).permute(2, 0, 3, 1, 4)
        mask = (self.mask.expand(len(x), -1, -1, -1, -1)).reshape(-1, 1, 3, 3)
        q, k, v = parts.unbind(0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias.unsqueeze(0) + mask).reshape(
            len(x), -1
        )


class Asking(nn.Module):
    """Attention whose queries are a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        own = self.queries.expand(len(x), 2, 4)
        return nn.functional.scaled_dot_product_attention(own, x, x)


class Products(nn.Module):
    """Products with matrices of parameters, and of a value computed from one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5, 3))
        self.third, self.bias = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        x = (x @ self.first).tanh()
        flat = torch.addmm(self.bias, x.reshape(-1, 5), self.second)
        x = flat.view(len(x), -1, 3).tanh()
        return torch.matmul(x, self.third.T.tanh())


class Encoder(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, **options)

    def forward(self, x: Tensor) -> Tensor:
        if self.layer.self_attn.batch_first:
            return self.layer(x)
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Standardised(nn.Conv2d):
    """A convolution whose weight is derived from its parameter."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


def frozen(module: nn.Module, *names: str) -> nn.Module:
    for name in names:
        module.get_parameter(name).requires_grad_(False)
    return module


def channels_last(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def floats(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, *shape)


def images(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, *shape).contiguous(memory_format=torch.channels_last)


def tokens(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randint(VOCABULARY, (n, *shape))


Case = tuple[Callable[[], nn.Module], Callable[[int], Tensor]]
CASES: dict[str, Case] = {
    "linear": (lambda: nn.Linear(5, 3), floats(5)),
    "linear of sequences": (lambda: nn.Linear(5, 3), floats(4, 5)),
    "linear of images": (lambda: nn.Linear(5, 3), floats(2, 3, 5)),
    "linear without bias": (lambda: nn.Linear(5, 3, bias=False), floats(5)),
    "linear with frozen bias": (lambda: frozen(nn.Linear(5, 3), "bias"), floats(5)),
    "linear with frozen weight": (lambda: frozen(nn.Linear(5, 3), "weight"), floats(4, 5)),
    "large linear": (lambda: nn.Linear(40, 50), floats(2, 40)),
    "frozen first layer": (
        lambda: frozen(nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)), "0.weight", "0.bias"),
        floats(5),
    ),
    "frozen layer in between": (
        lambda: frozen(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)), "1.weight"),
        floats(5),
    ),
    "in-place ReLU": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 2), nn.ReLU(inplace=True)
        ),
        floats(2, 6, 6),
    ),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1, dilation=2), floats(2, 9)),
    "conv1d same": (lambda: nn.Conv1d(2, 3, 4, padding="same"), floats(2, 9)),
    "conv1d groups": (lambda: nn.Conv1d(4, 6, 3, groups=2), floats(4, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, stride=(2, 1), padding=(1, 2)), floats(2, 7, 6)),
    "conv2d without bias": (lambda: nn.Conv2d(2, 3, (3, 2), bias=False), floats(2, 7, 6)),
    "conv2d 1x1": (lambda: nn.Conv2d(2, 3, 1, stride=2), floats(2, 7, 6)),
    "conv2d dilation": (lambda: nn.Conv2d(2, 3, 2, dilation=(1, 3), padding="valid"), floats(2, 7, 6)),
    "conv2d same": (lambda: nn.Conv2d(2, 3, (3, 4), padding="same", dilation=(2, 1)), floats(2, 7, 6)),
    "conv2d circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), floats(2, 7, 6)),
    "conv2d same reflect": (
        lambda: nn.Conv2d(2, 3, 4, padding="same", padding_mode="reflect"),
        floats(2, 7, 6),
    ),
    "conv2d groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), floats(4, 7, 6)),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), floats(4, 7, 6)),
    "conv2d with large windows": (lambda: nn.Conv2d(16, 8, 5), floats(16, 24, 24)),
    "conv2d with many channels": (lambda: nn.Conv2d(24, 32, 3), floats(24, 4, 4)),
    "conv2d with grouped channels": (lambda: nn.Conv2d(48, 64, 3, groups=2), floats(48, 4, 4)),
    "conv2d channels last": (
        lambda: channels_last(
            nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 3, 3)
        ),
        images(2, 7, 6),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 3, (2, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1)), floats(2, 4, 5, 4)),
    "conv3d dilation": (lambda: nn.Conv3d(2, 3, 2, dilation=2), floats(2, 4, 5, 4)),
    "embedding": (lambda: nn.Embedding(VOCABULARY, 4), tokens()),
    "embedding of sequences": (lambda: nn.Embedding(VOCABULARY, 4), tokens(6)),
    "embedding with padding": (lambda: nn.Embedding(VOCABULARY, 4, padding_idx=3), tokens(2, 6)),
    "embedding with last padding": (lambda: nn.Embedding(VOCABULARY, 4, padding_idx=-1), tokens(6)),
    "sparse embedding": (lambda: nn.Embedding(VOCABULARY, 4, sparse=True), tokens(6)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5)), floats(5)),
    "layer norm of sequences": (lambda: nn.LayerNorm((4, 5)), floats(3, 4, 5)),
    "layer norm without bias": (lambda: nn.LayerNorm(5, bias=False), floats(4, 5)),
    "rms norm": (lambda: nn.Sequential(nn.Linear(5, 5), nn.RMSNorm(5)), floats(4, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 4), floats(4, 3, 3)),
    "group norm of vectors": (lambda: nn.GroupNorm(2, 4), floats(4)),
    "instance norm 1d": (lambda: nn.InstanceNorm1d(3, affine=True), floats(3, 5)),
    "instance norm 2d": (lambda: nn.InstanceNorm2d(3, affine=True), floats(3, 4, 3)),
    "instance norm 3d": (lambda: nn.InstanceNorm3d(3, affine=True), floats(3, 2, 3, 2)),
    "attention": (Attention, floats(3, 4)),
    "attention with biases": (lambda: Attention(add_bias_kv=True), floats(3, 4)),
    "sequence bias": (lambda: SequenceBias(4, batch_first=True), floats(3, 4)),
    "embedding bag": (lambda: nn.EmbeddingBag(VOCABULARY, 4), tokens(6)),
    "embedding bag with padding": (lambda: nn.EmbeddingBag(VOCABULARY, 4, padding_idx=2), tokens(6)),
    "bilinear": (lambda: nn.Sequential(nn.Linear(4, 4), Bilinear()), floats(4)),
    "prelu": (lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(4)), floats(4)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), floats(2, 4, 4)),
    "lstm of torch": (lambda: Recurrent(nn.LSTM(4, 3, batch_first=True)), floats(3, 4)),
    "state of a gru, time first": (lambda: State(nn.GRU(4, 3)), floats(3, 4)),
    "state that begins at zero": (ZeroState, floats(4)),
    "class token and positions": (Positioned, floats(3, 4)),
    "class token and positions, time first": (lambda: Positioned(time_first=True), floats(3, 4)),
    "attention in windows": (Windows, floats(6, 4)),
    "attention in shifted windows": (Shifted, floats(6, 4)),
    "queries of a parameter": (Asking, floats(3, 4)),
    "products": (Products, floats(3, 4)),
    "weight norm": (
        lambda: nn.Sequential(weight_norm(nn.Linear(4, 3)), nn.Tanh(), weight_norm(nn.Linear(3, 2), dim=1)),
        floats(3, 4),
    ),
    "weight norm of a convolution": (lambda: weight_norm(nn.Conv2d(2, 3, 3)), floats(2, 5, 5)),
    "attention of torch": (lambda: Encoder(batch_first=True), floats(3, 4)),
    "attention of torch, norm first": (lambda: Encoder(norm_first=True), floats(3, 4)),
    "own layer": (lambda: nn.Sequential(Scale(), nn.Linear(4, 3)), floats(4)),
    "own convolution": (lambda: nn.Sequential(Standardised(2, 3, 3), nn.ReLU(inplace=True)), floats(2, 5, 5)),
    "looked up": (LookedUp, floats(3, 4)),
    "called twice": (Twice, floats(5)),
    "tied": (Tied, tokens(5)),
    "lstm": (lambda: Recurrent(DPLSTM(4, 3, batch_first=True)), floats(3, 4)),
    "lstm of two layers": (
        lambda: Recurrent(DPLSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)),
        floats(3, 4),
    ),
    "gru": (lambda: Recurrent(DPGRU(4, 3, batch_first=True)), floats(3, 4)),
}


def loss_of(out: Tensor) -> Tensor:
    """A sum over records of something that has no symmetry."""
    weights = torch.linspace(-1.0, 2.0, out[0].numel(), dtype=out.dtype).view(out[0].shape)
    return ((out.tanh() + out.square()) * weights).sum()


def brute_force(module: nn.Module, x: Tensor, sizes: list[int]) -> dict[str, Tensor]:
    """One ordinary backward pass per bucket, in float64."""
    module = copy.deepcopy(module).double()
    rows: dict[str, list[Tensor]] = {}
    for part in (x.double() if x.is_floating_point() else x).split(sizes):
        module.zero_grad()
        loss_of(module(part)).backward()
        for name, p in module.named_parameters():
            if p.grad is not None:
                rows.setdefault(name, []).append(p.grad.to_dense().clone())
    return {name: torch.stack(row) for name, row in rows.items()}


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest error of a parameter relative to its largest value, or to 1 % of that of all where it is zero."""
    assert found.keys() == expected.keys()
    least = 1e-2 * max(float(e.abs().max()) for e in expected.values())
    return max(
        float((found[name].double() - e).abs().max()) / max(float(e.abs().max()), least)
        for name, e in expected.items()
    )


def capture_of(
    module: nn.Module, sizes: list[int], *, ghost: bool = False, leaves: dict[nn.Module, bool] | None = None
) -> Capture:
    """A capture of all trained parameters, for buckets of these sizes."""
    named = trained(module)
    return Capture(
        named,
        Segments(sizes),
        public=PublicTensors(module),
        leaves=other_leaves(module, named) if leaves is None else leaves,
        ghost=ghost,
    )


def run(module: Callable[[Tensor], Tensor], x: Tensor, capture: Capture) -> Tensor:
    """One forward pass on the records of the physical batch."""
    capture.take_in(x, Records(0))
    capture.begin_pass([x], None)
    with capture:
        return module(x)


def send_back(loss: Tensor, capture: Capture, *, keep: bool = False) -> None:
    """The backward pass from the criterion."""
    with capture.taking():
        loss.backward(retain_graph=keep)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("case", CASES)
def test_rows_equal_a_backward_pass_per_bucket(case: str, sizes: list[int]) -> None:
    make, draw = CASES[case]
    module, x = make(), draw(sum(sizes))
    expected = brute_force(module, x, sizes)
    capture = capture_of(module, sizes)
    send_back(loss_of(run(module, x, capture)), capture)
    found = {name: capture.rows[p] for name, p in trained(module)}
    assert all(p.grad is None for p in module.parameters())
    assert all(rows.dtype == torch.float32 for rows in found.values())
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("case", CASES)
def test_ghost_equals_the_rows(case: str, sizes: list[int]) -> None:
    make, draw = CASES[case]
    module, x = make(), draw(sum(sizes))
    expected = brute_force(module, x, sizes)
    capture = capture_of(module, sizes, ghost=True)
    send_back(loss_of(run(module, x, capture)), capture)
    squares = torch.stack([rows.flatten(1).square().sum(1) for rows in expected.values()]).sum(0)
    assert capture.squared_norms(module.parameters()).dtype == torch.float64
    assert float(((capture.squared_norms(module.parameters()) - squares) / squares).abs().max()) < 1e-5
    factors = torch.linspace(0.5, 2.0, len(sizes), dtype=torch.float64)
    found = {name: capture.weighted_sum(factors, p) for name, p in trained(module)}
    assert relative_error(found, {n: torch.tensordot(factors, r, 1) for n, r in expected.items()}) < 1e-5


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_known_pass_gives_the_same_gradients(case: str, ghost: bool) -> None:
    """A pass over as many records as an earlier one, which needs no rules."""
    make, draw = CASES[case]
    module, sizes = make(), [1, 2, 2]
    leaves = other_leaves(module, trained(module))

    def traced(sizes: list[int], program: Program | None = None) -> tuple[Capture, Tensor]:
        x = draw(sum(sizes))
        capture = capture_of(module, sizes, ghost=ghost, leaves=leaves)
        capture.take_in(x, Records(0))
        capture.begin_pass([x], program)
        with capture:
            out = module(x)
        capture.finish([out])
        send_back(loss_of(out), capture)
        return capture, x

    program = Program.of(*(traced(n)[0].trace for n in ([1, 1], [1, 2])))
    assert not traced(sizes, program)[0].is_known
    capture, x = traced(sizes, program)
    assert capture.is_known
    expected = brute_force(module, x, sizes)
    factors = torch.linspace(0.5, 2.0, len(sizes), dtype=torch.float64)
    found = {name: capture.weighted_sum(factors, p) for name, p in trained(module)}
    assert relative_error(found, {n: torch.tensordot(factors, r, 1) for n, r in expected.items()}) < 1e-5
    squares = torch.stack([rows.flatten(1).square().sum(1) for rows in expected.values()]).sum(0)
    assert float(((capture.squared_norms(module.parameters()) - squares) / squares).abs().max()) < 1e-5
    assert all(p.grad is None for p in module.parameters())
