"""Times one training step here and in PyTorch, alternately, and prints the ratio.

The peers need a virtual environment; the product needs none of it:
    python3 -m venv .venv && .venv/bin/pip install torch==2.13.0+cpu numpy
    swift build -c release --product tessera
    .venv/bin/python Benchmarks/train_step.py [ROUNDS [PART OF A MODEL'S NAME]]
Both sides do forward, cross-entropy with soft targets, backward and AdamW on random images with random weights. PyTorch
runs in float32 and in bfloat16 autocast; the ratios are against the better of the two.
"""

import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

CASES = [
    ("cct_2_3x2_32", 28, 1, 128, '{"n_input_channels": 1, "img_size": 28}'),
    ("cct_7_3x1_32", 32, 3, 64, "{}"),
    ("cct_7_3x1_32", 32, 3, 128, "{}"),
    ("deit_tiny_patch16_224", 224, 3, 16, "{}"),
]

#: In which we run.
PRECISIONS = ["float32", "bfloat16", "int16", "switchback"]


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.drop = 0.1

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = F.dropout((q @ k.transpose(-2, -1) * self.scale).softmax(-1), self.drop, self.training)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))


class Layer(nn.Module):
    def __init__(self, width, heads, hidden, rate):
        super().__init__()
        self.pre, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.rate = Attention(width, heads), rate
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def path(self, x):
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(keep).div_(keep)

    def forward(self, x):
        x = self.norm(x + self.path(self.attention(self.pre(x))))
        return x + self.path(self.second(F.gelu(self.first(x))))


class CompactTransformer(nn.Module):
    """The Compact Convolutional Transformer, written from its paper for this comparison."""

    def __init__(self, size, channels, width, depth, heads, ratio, convolutions):
        super().__init__()
        widths = [channels] + [64] * (convolutions - 1) + [width]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
            for a, b in zip(widths, widths[1:])
        )
        tokens = (-(-size // 2**convolutions)) ** 2
        self.positions = nn.Parameter(torch.randn(1, tokens, width) * 0.2)
        rates = [0.1 * i / max(1, depth - 1) for i in range(depth)]
        self.layers = nn.ModuleList(Layer(width, heads, width * ratio, r) for r in rates)
        self.norm, self.pool, self.head = nn.LayerNorm(width), nn.Linear(width, 1), nn.Linear(width, 10)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        x = x.flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.head((self.pool(x).softmax(1).transpose(1, 2) @ x).squeeze(1))


class PlainBlock(nn.Module):
    def __init__(self, width, heads, rate):
        super().__init__()
        self.heads, self.rate = heads, rate
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = x + Layer.path(self, self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)))
        return x + Layer.path(self, self.second(F.gelu(self.first(self.norm2(x)))))


class VisionTransformer(nn.Module):
    """DeiT, written from its paper for this comparison, on PyTorch's fused attention."""

    def __init__(self, width=192, depth=12, heads=3):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 197, width) * 0.02)
        self.blocks = nn.ModuleList(PlainBlock(width, heads, 0.1 * i / (depth - 1)) for i in range(depth))
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, 1000)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def peer(name, size, channels):
    if name == "cct_2_3x2_32":
        return CompactTransformer(size, channels, 128, 2, 2, 1, 2)
    if name == "cct_7_3x1_32":
        return CompactTransformer(size, channels, 256, 7, 4, 2, 1)
    return VisionTransformer()


def torch_step(name, size, channels, batch, bfloat16, seconds=4):
    torch.manual_seed(0)
    model = peer(name, size, channels).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    images = torch.randn(batch, channels, size, size)
    targets = torch.rand(batch, 1000 if "deit" in name else 10).softmax(1)
    times = []
    end = time.time() + seconds
    while time.time() < end or len(times) < 4:
        start = time.time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.time() - start)
    return 1000 * statistics.median(times[2:])


def our_step(name, batch, arguments, runs, precision):
    command = [".build/release/tessera", "bench", name, "--train", "--json", "--batch", str(batch), "--threads", "2",
               "--runs", str(runs), "--model-args", arguments, "--precision", precision]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "peak":
        torch.set_num_threads(2)
        name, size, channels, batch, _ = CASES[int(sys.argv[2])]
        torch_step(name, size, channels, batch, sys.argv[3] == "1", 1)
        print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    torch.set_num_threads(2)
    header = ["case", *(f"{p} ms" for p in PRECISIONS), "torch float32 ms", "torch bfloat16 ms"]
    header += [*(f"torch / {p}" for p in PRECISIONS), "MB of each", "MB of torch's"]
    print(f"| {' | '.join(header)} |")
    print("| --- " * len(header) + "|")
    median = statistics.median
    for index, (name, size, channels, batch, arguments) in enumerate(CASES):
        if wanted not in name:
            continue
        ours, theirs, ratios, memory = {p: [] for p in PRECISIONS}, {False: [], True: []}, {}, {}
        runs = 50 if "cct_2" in name else 20 if "deit" in name else 4      # as long as PyTorch's steps take, or longer
        for _ in range(rounds):
            for precision, times in ours.items():
                result = our_step(name, batch, arguments, runs, precision)
                memory[precision] = max(memory.get(precision, 0), result["peak_memory_mb"])
                times.append(result["median_ms"])
            for bfloat16, times in theirs.items():
                times.append(torch_step(name, size, channels, batch, bfloat16))
            for precision, times in ours.items():
                ratios.setdefault(precision, []).append(min(theirs[False][-1], theirs[True][-1]) / times[-1])
        peaks = [float(subprocess.run([sys.executable, __file__, "peak", str(index), bfloat16], check=True,
                                      capture_output=True, text=True).stdout) for bfloat16 in "01"]
        cells = [f"{median(times):.1f}" for times in [*ours.values(), *theirs.values()]]
        cells += [f"{median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios.values()]
        print(f"| {name} {size}×{size} batch {batch} | {' | '.join(cells)} | "
              f"{', '.join(f'{mb:.0f}' for mb in memory.values())} | {', '.join(f'{mb:.0f}' for mb in peaks)} |", flush=True)


if __name__ == "__main__":
    main()
