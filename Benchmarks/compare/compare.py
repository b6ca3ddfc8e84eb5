"""Times a forward pass here and in PyTorch, OpenVINO and ONNX Runtime, alternately, and prints median ratios.

The peers need a virtual environment; the product needs none of it:
    python3 -m venv .venv
    .venv/bin/pip install torch==2.13.0+cpu openvino==2026.4.1 onnxruntime==1.31.1 onnx numpy
    swift build -c release --product tessera
    .venv/bin/python Benchmarks/compare/compare.py --batch 16 --rounds 5

Every rival is a process of its own that loads its model once; in each round they run one after the other, with a pause
between them in which their threads stop spinning. The ratio of a round is the best rival's time over ours; above one,
Tessera is faster. All have random weights and inputs of the same shape.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
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


class Peer:
    def __init__(self, kind, name, batch, precision, threads, folder):
        arguments = [sys.executable, os.path.join(HERE, "peer.py"), kind, name, str(batch), precision, str(threads)]
        self.kind, self.times = kind, []
        self.process = subprocess.Popen(
            arguments + [folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{kind} could not run {name}")

    def time(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Ours:
    kind = "tessera"

    def __init__(self, tessera, name, batch, precision, threads, eager):
        self.command = [tessera, "bench", name, "--batch", str(batch), "--precision", precision, "--json"]
        self.command += ["--threads", str(threads)] + (["--eager"] if eager else [])
        self.kind = "eager" if eager else "tessera"
        self.last = 1.0

    def time(self, seconds):
        runs = max(3, int(seconds / self.last))
        result = json.loads(subprocess.run(self.command + ["--runs", str(runs)], check=True, capture_output=True).stdout)
        self.last = result["median_ms"] / 1000
        return result["median_ms"]

    def close(self):
        pass


def compare(name, batch, precision, options, folder):
    """The times of every contestant, by round."""
    contestants = [Ours(options.tessera, name, batch, precision, options.threads, False)]
    if options.eager:
        contestants.append(Ours(options.tessera, name, batch, precision, options.threads, True))
    for kind in options.peers:
        if kind == "onnxruntime" and precision != "float32":
            continue
        try:
            contestants.append(Peer(kind, name, batch, precision, options.threads, folder))
        except RuntimeError as error:
            print(error, file=sys.stderr)
    rounds = []
    for number in range(options.rounds):
        # Every other round backwards: nobody always runs after the same one.
        times = {}
        for contestant in contestants[:: 1 if number % 2 == 0 else -1]:
            time.sleep(options.pause)
            times[contestant.kind] = contestant.time(options.seconds)
        rounds.append(times)
    for contestant in contestants:
        contestant.close()
    return rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=DEFAULT_MODELS)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    peers = ["torch", "compiled", "openvino", "onnxruntime"]
    parser.add_argument("--peers", nargs="+", default=["torch", "openvino", "onnxruntime"], choices=peers)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each contestant in each round")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds before each contestant")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--eager", action="store_true", help="also time the model without its plan")
    parser.add_argument("--tessera", default=os.path.join(HERE, "../../.build/release/tessera"))
    options = parser.parse_args()
    columns = ["tessera"] + (["eager"] if options.eager else []) + options.peers
    print("| model | batch | precision | " + " | ".join(f"{c} ms" for c in columns) + " | best rival / tessera |")
    print("| --- " * (len(columns) + 4) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            for batch in options.batch:
                if {"openvino", "onnxruntime"} & set(options.peers):
                    export(name, batch, folder)
                for precision in options.precision:
                    rounds = compare(name, batch, precision, options, folder)
                    cells = [
                        f"{statistics.median(r[c] for r in rounds):.1f}" if c in rounds[0] else "" for c in columns
                    ]
                    rivals = [[t for c, t in r.items() if c not in ("tessera", "eager")] for r in rounds]
                    ratios = [min(times) / r["tessera"] for times, r in zip(rivals, rounds) if times]
                    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
                    print(f"| {name} | {batch} | {precision} | " + " | ".join(cells) + f" | {ratio} |", flush=True)


main()
