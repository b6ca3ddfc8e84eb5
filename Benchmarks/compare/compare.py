"""Times a forward pass here and in PyTorch, OpenVINO and ONNX Runtime, alternately, and prints median ratios.

The peers need a virtual environment; the product needs none of it:
    python3 -m venv .venv
    .venv/bin/pip install torch==2.13.0+cpu openvino==2026.4.1 onnxruntime==1.31.1 onnx numpy
    swift build -c release --product tessera
    .venv/bin/python Benchmarks/compare/compare.py --batch 16 --rounds 5
    .venv/bin/pip install nncf==3.4.0
    .venv/bin/python Benchmarks/compare/compare.py --precision int8

Every rival is a process of its own that loads its model once; in each round they run one after the other, with a pause
between them in which their threads stop spinning. The ratio of a round is the best rival's time over ours; above one,
Tessera is faster. All have random weights, which everyone but PyTorch reads from a file, and inputs of the same shape.

With --precision int8 we compute in codes, and so do OpenVINO (quantized by NNCF) and ONNX Runtime (by its own static
quantization); both run in float32 as well, as we do: the rival is the best of either precision. With --precision int16,
whose errors are below those of bfloat16, the rivals run in float32 and PyTorch in bfloat16 autocast as well.

Beside the times stand the share of the processor's peak that we reached (the peak is measured in every round, by
tessera bench --profile) and the most memory that a process needed, its libraries included: ours, PyTorch's and the most
modest rival's.
"""

import argparse
import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
#: What a rival computes in where it may choose.
PRECISIONS = {
    "torch": ["float32"],
    "compiled": ["float32"],
    "openvino": ["int8", "float32"],
    "onnxruntime": ["int8", "float32"],
}
OURS = ("tessera", "eager")
#: Precisions beside which we run in float32 too.
CODES = {"int8", "int16"}
DEFAULT_MODELS = ["deit_tiny_patch16_224", "deit_small_patch16_224", "vit_base_patch16_224", "cct_7_3x1_32"]


def export(name, batch, folder):
    """Writes the ONNX file of a model, in a process of its own."""
    code = f"""
import sys, torch
sys.path.insert(0, {HERE!r})
from models import MODELS
torch.manual_seed(0)
side, build = MODELS[{name!r}]
path = {folder!r} + "/{name}-{batch}.onnx"
torch.onnx.export(build().eval(), (torch.randn({batch}, 3, side, side),), path, opset_version=18, dynamo=False)
open(path + ".side", "w").write(str(side))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, stderr=subprocess.DEVNULL)


def quantize(name, batch, folder):
    """Makes the quantized models of the rivals from that file."""
    subprocess.run([sys.executable, os.path.join(HERE, "quantize.py"), f"{folder}/{name}-{batch}.onnx"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Peer:
    def __init__(self, kind, name, batch, precision, threads, folder, prefix):
        arguments = [sys.executable, os.path.join(HERE, "peer.py"), kind, name, str(batch), precision, str(threads)]
        self.kind = kind if precision == "float32" else f"{kind} {precision}"
        self.process = subprocess.Popen(
            prefix + arguments + [folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{kind} could not run {name}")

    def time(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Ours:
    def __init__(self, kind, tessera, name, batch, precision, threads, folder, prefix):
        run = f"{folder}/{name}"
        if not os.path.exists(run):
            subprocess.run([tessera, "init", name, "--out", run], check=True)
        self.command = prefix + [tessera, "bench", run, "--batch", str(batch), "--threads", str(threads)]
        self.command += ["--precision", precision]
        self.is_eager = kind == "eager"
        self.command += ["--eager"] if self.is_eager else []
        self.kind = kind
        self.last = 1.0

    def time(self, seconds):
        runs = max(3, int(seconds / self.last))
        command = self.command + ["--json", "--runs", str(runs)] + ([] if self.is_eager else ["--profile"])
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        self.result = json.loads(output[output.index("{"):])
        self.last = self.result["median_ms"] / 1000
        if not self.is_eager:
            # Of the peak that the processor shows right now.
            self.share = self.result["gigaflops_per_second"] / float(re.search(r"peak (\d+) G", output)[1])
        return self.result["median_ms"]

    def memory(self):
        return self.result["peak_memory_mb"]

    def close(self):
        pass


def rivals(peers, precision):
    """Kind and precision of every rival."""
    if precision == "int16":
        return [(kind, "float32") for kind in peers] + [("torch", "bfloat16") for kind in peers if kind == "torch"]
    if precision != "int8":
        return [(kind, precision) for kind in peers if kind != "onnxruntime" or precision == "float32"]
    return [(kind, p) for kind in peers for p in PRECISIONS[kind]]


def compare(name, batch, precision, threads, options, folder):
    """The times of every contestant and our share of the peak, by round; the memory of each."""
    ours = [("tessera", precision)] + ([("eager", precision)] if options.eager else [])
    if precision in CODES:
        ours.append(("tessera float32", "float32"))
    prefix = shlex.split(options.prefix)
    contestants = [Ours(kind, options.tessera, name, batch, p, threads, folder, prefix) for kind, p in ours]
    for kind, peer_precision in rivals(options.peers, precision):
        try:
            contestants.append(Peer(kind, name, batch, peer_precision, threads, folder, prefix))
        except RuntimeError as error:
            print(error, file=sys.stderr)
    rounds, shares = [], []
    for number in range(options.rounds):
        # Every other round backwards: nobody always runs after the same one.
        times = {}
        for contestant in contestants[:: 1 if number % 2 == 0 else -1]:
            time.sleep(options.pause)
            times[contestant.kind] = contestant.time(options.seconds)
        rounds.append(times)
        shares.append(contestants[0].share)
    memory = {contestant.kind: contestant.memory() for contestant in contestants}
    for contestant in contestants:
        contestant.close()
    return rounds, shares, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=DEFAULT_MODELS)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "bfloat16", "int16", "int8"])
    peers = ["torch", "compiled", "openvino", "onnxruntime"]
    parser.add_argument("--peers", nargs="+", default=["torch", "openvino", "onnxruntime"], choices=peers)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each contestant in each round")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds before each contestant")
    parser.add_argument("--threads", type=int, nargs="+", default=[len(os.sched_getaffinity(0))])
    parser.add_argument("--eager", action="store_true", help="also time the model without its plan")
    parser.add_argument("--prefix", default="", help="a command that runs every contestant, such as chrt -f 1")
    parser.add_argument("--tessera", default=os.path.join(HERE, "../../.build/release/tessera"))
    options = parser.parse_args()
    columns = ["tessera"] + (["eager"] if options.eager else [])
    if CODES & set(options.precision):
        columns.append("tessera float32")
    pairs = [pair for precision in options.precision for pair in rivals(options.peers, precision)]
    columns += dict.fromkeys(kind if precision == "float32" else f"{kind} {precision}" for kind, precision in pairs)
    print("| model | batch | precision | threads | " + " | ".join(f"{c} ms" for c in columns)
          + " | best rival / tessera | of the peak | MB, PyTorch's, a rival's |")
    print("| --- " * (len(columns) + 7) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            for batch in options.batch:
                if {"openvino", "onnxruntime"} & set(options.peers):
                    export(name, batch, folder)
                    if "int8" in options.precision:
                        quantize(name, batch, folder)
                for precision, threads in itertools.product(options.precision, options.threads):
                    rounds, shares, memory = compare(name, batch, precision, threads, options, folder)
                    cells = [
                        f"{statistics.median(r[c] for r in rounds):.1f}" if c in rounds[0] else "" for c in columns
                    ]
                    others = [[t for c, t in r.items() if c.split()[0] not in OURS] for r in rounds]
                    ratios = [min(times) / r["tessera"] for times, r in zip(others, rounds) if times]
                    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
                    rival = min((m for c, m in memory.items() if c.split()[0] not in OURS), default=float("nan"))
                    torch = min((m for c, m in memory.items() if c.split()[0] == "torch"), default=float("nan"))
                    needs = (memory["tessera"], torch, rival)
                    ratio += f" | {statistics.median(shares):.0%} | " + ", ".join(f"{need:.0f}" for need in needs)
                    start = f"| {name} | {batch} | {precision} | {threads} | "
                    print(start + " | ".join(cells) + f" | {ratio} |", flush=True)


main()
