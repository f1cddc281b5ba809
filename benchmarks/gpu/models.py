"""Models of the usual sizes with random weights: ResNet-50, ViT-B/16 and GPT-2, the last two with LoRA adapters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vision_transformer import VisionTransformer

RANK = 8
"""Rank of the adapters, on the query and the value projection of every layer."""


class LowRank(nn.Module):
    """A frozen linear layer plus a trained product of two thin ones (LoRA)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.down = nn.Linear(width, RANK, bias=False)
        self.up = nn.Linear(RANK, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.up(self.down(x))


class Attention(nn.Module):
    """Self-attention with adapters; it has the signature with which torchvision calls ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.query, self.value = LowRank(width), LowRank(width)
        self.key, self.out = (nn.Linear(width, width).requires_grad_(False) for _ in range(2))
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor, *_: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2)), None


def resnet(
    *,
    block: type[BasicBlock | Bottleneck] = Bottleneck,
    layers: tuple[int, ...] = (3, 4, 6, 3),
    classes: int = 1000,
) -> nn.Module:
    """ResNet-50 with GroupNorm in the place of BatchNorm."""
    model = ResNet(
        block, list(layers), norm_layer=lambda channels: nn.GroupNorm(32, channels), num_classes=classes
    )
    return model.to(memory_format=torch.channels_last)


def vit(
    *, image_size: int = 224, layers: int = 12, heads: int = 12, width: int = 768, classes: int = 1000
) -> nn.Module:
    """ViT-B/16; only the adapters and the head are trained."""
    model = VisionTransformer(image_size, 16, layers, heads, width, 4 * width, num_classes=classes)
    model.requires_grad_(False)
    for block in model.encoder.layers:
        block.self_attention = Attention(width, heads, causal=False)
    model.heads.requires_grad_(True)
    return model


class GPT2(nn.Module):
    """GPT-2; only the adapters are trained.

    Args:
        tokens: longest text.
        layers: number of blocks.
        heads: of each block.
        width: of the residual stream.
        vocabulary: number of different tokens.
    """

    def __init__(
        self,
        *,
        tokens: int = 1024,
        layers: int = 12,
        heads: int = 12,
        width: int = 768,
        vocabulary: int = 50257,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for part in (self.words, self.positions, self.norm):
            part.requires_grad_(False)

    def forward(self, text: Tensor) -> Tensor:
        """Return the logits of the next tokens, (records, vocabulary, tokens)."""
        x = self.words(text) + self.positions.weight[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.words.weight).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width).requires_grad_(False) for _ in range(2))
        self.attention = Attention(width, heads, causal=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        ).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))[0]
        return x + self.mlp(self.norm2(x))
