"""How long until a process has named its first picture? `tessera predict` from the start of its process to its end,
against ONNX Runtime: a whole Python process that does nothing else, its picture being zeros, and, inside a process that
has it loaded, the session's creation and its first run alone.

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


def process(file):
    code = f"""
import numpy, onnxruntime
session = onnxruntime.InferenceSession({file!r}, providers=["CPUExecutionProvider"])
image = session.get_inputs()[0]
shape = [extent if isinstance(extent, int) else 1 for extent in image.shape]
session.run(None, {{image.name: numpy.zeros(shape, "float32")}})
"""
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)


def row(times):
    return f"{statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f})"


with tempfile.TemporaryDirectory() as folder:
    call("data", "fashion-mnist", "--write-images", f"{folder}/images", "--count", "1")
    print(f"help: {row([milliseconds(lambda: call('--help')) for _ in range(ROUNDS)])} ms")
    print("| model | tessera, whole process (ms) | ONNX Runtime, whole process | its session and run alone "
          "| ratio of processes | to the session alone |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in models:
        run, file = f"{folder}/{model}", f"{folder}/{model}.onnx"
        call("init", model, "--out", run)
        call("export", run, "--format", "onnx", "--out", file)
        ours, processes, sessions = [], [], []
        for _ in range(ROUNDS):
            ours.append(milliseconds(lambda: call("predict", run, f"{folder}/images")))
            processes.append(milliseconds(lambda: process(file)))
            sessions.append(milliseconds(lambda: first_answer(file)))
        ratios = [statistics.median(theirs) / statistics.median(ours) for theirs in (processes, sessions)]
        print(f"| {model} | {row(ours)} | {row(processes)} | {row(sessions)} | {ratios[0]:.1f} | {ratios[1]:.1f} |")
