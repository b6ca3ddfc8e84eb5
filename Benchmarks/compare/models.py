"""The models of the comparison in PyTorch, with random weights: our own, and those of timm where it is installed."""

import functools

import torch
import torch.nn as nn
import torch.nn.functional as F

#: Name here: (input side, constructor).
MODELS = {}


def model(side):
    def register(build):
        MODELS[build.__name__] = (side, build)
        return build

    return register


@model(224)
def deit_tiny_patch16_224():
    return VisionTransformer(width=192, heads=3)


@model(224)
def deit_small_patch16_224():
    return VisionTransformer(width=384, heads=6)


@model(224)
def vit_base_patch16_224():
    return VisionTransformer(width=768, heads=12)


@model(32)
def cct_7_3x1_32():
    return CompactTransformer(side=32, depth=7, width=256, heads=4, ratio=2, kernel=3, stages=1, classes=10)


@model(224)
def cct_14_7x2_224():
    return CompactTransformer(side=224, depth=14, width=384, heads=6, ratio=3, kernel=7, stages=2, classes=1000)


class Attention(nn.Module):
    def __init__(self, width, heads, bias):
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        shape = (batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """The encoder layer of ViT."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, bias=True)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.second(F.gelu(self.first(self.norm2(x))))


class VisionTransformer(nn.Module):
    """ViT and DeiT with patches of 16 x 16 on images of 224 x 224."""

    def __init__(self, width, heads, depth=12, classes=1000):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 197, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Layer(nn.Module):
    """The encoder layer of Compact Transformers in evaluation mode."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, bias=False)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        x = self.between(x + self.attention(self.before(x)))
        return x + self.second(F.gelu(self.first(x)))


class CompactTransformer(nn.Module):
    """CCT: convolutional tokenizer, encoder, sequence pooling."""

    def __init__(self, side, depth, width, heads, ratio, kernel, stages, classes):
        super().__init__()
        stride, padding = max(1, kernel // 2 - 1), max(1, kernel // 2)
        channels = [3] + [64] * (stages - 1) + [width]
        self.tokenizer = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(i, o, kernel, stride, padding, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
                )
                for i, o in zip(channels, channels[1:])
            )
        )
        with torch.no_grad():
            tokens = self.tokenizer(torch.zeros(1, 3, side, side)).flatten(2).shape[2]
        self.positions = nn.Parameter(0.2 * torch.randn(1, tokens, width))
        self.layers = nn.Sequential(*(Layer(width, heads, ratio * width) for _ in range(depth)))
        self.norm, self.pool = nn.LayerNorm(width), nn.Linear(width, 1)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        x = self.tokenizer(images).flatten(2).transpose(1, 2) + self.positions
        x = self.norm(self.layers(x))
        weights = self.pool(x).softmax(dim=1)
        return self.head((weights.transpose(1, 2) @ x).squeeze(1))


try:
    import timm
except ImportError:
    timm = None
for side, name in [
    (256, "mobilevit_s"), (224, "swin_tiny_patch4_window7_224"), (224, "xcit_tiny_12_p16_224"), (224, "pvt_v2_b1"),
    (224, "resnet50"), (224, "mixer_b16_224"),
]:
    if timm:
        MODELS[name] = (side, functools.partial(timm.create_model, name))
