"""How long until a process has named its first picture? `tessera predict` from the start of its process to its end,
against ONNX Runtime inside a process that has it loaded: the session's creation and its first run alone.

    python Benchmarks/first_answer.py .build/release/tessera [MODEL...]       (needs numpy and onnxruntime)
"""
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
import onnxruntime

ROUNDS = 7
tessera, models = sys.argv[1], sys.argv[2:] or [
    "deit_tiny_patch16_224", "deit_small_patch16_224", "vit_base_patch16_224"]


def milliseconds(body):
    start = time.perf_counter()
    body()
    return 1000 * (time.perf_counter() - start)


def call(*arguments):
    subprocess.run([tessera, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def first_answer(file):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    shape = [extent if isinstance(extent, int) else 1 for extent in image.shape]
    session.run(None, {image.name: numpy.zeros(shape, "float32")})


def row(times):
    return f"{statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f})"


with tempfile.TemporaryDirectory() as folder:
    call("data", "fashion-mnist", "--write-images", f"{folder}/images", "--count", "1")
    print(f"help: {row([milliseconds(lambda: call('--help')) for _ in range(ROUNDS)])} ms")
    print("| model | tessera, whole process (ms) | ONNX Runtime, session and run (ms) | ratio of medians |")
    print("| --- | --- | --- | --- |")
    for model in models:
        run, file = f"{folder}/{model}", f"{folder}/{model}.onnx"
        call("init", model, "--out", run)
        call("export", run, "--format", "onnx", "--out", file)
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(milliseconds(lambda: call("predict", run, f"{folder}/images")))
            theirs.append(milliseconds(lambda: first_answer(file)))
        ratio = statistics.median(theirs) / statistics.median(ours)
        print(f"| {model} | {row(ours)} | {row(theirs)} | {ratio:.1f} |")
