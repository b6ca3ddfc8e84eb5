"""Quantized runs as ONNX graphs: ONNX Runtime and OpenVINO against tessera's own whole numbers.

The weights are random, drawn further apart than fresh ones so that every layer matters; calibration and test images are
blurred noise. Each graph passes onnx.checker. A value that lies between two codes may fall either way, so what is compared
is the direction and the largest difference of the logits, beside what quantization itself changes.
    python3 -m venv .venv && .venv/bin/pip install onnx onnxruntime openvino safetensors pillow
    swift build -c release --product tessera
    .venv/bin/python Benchmarks/onnx_quantized.py [--models NAME...] [--bits 8 4]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnx
import onnxruntime
import openvino
from PIL import Image, ImageFilter
from safetensors.numpy import load_file

from onnx_export import error, scatter, tessera

MODELS = ["deit_tiny_patch16_224", "cct_7_3x1_32", "swin_tiny_patch4_window7_224", "pvt_v2_b0", "xcit_nano_12_p16_224",
          "mobilevit_xxs"]


def cosine(a, b):
    return float((a * b).sum() / numpy.sqrt((a * a).sum() * (b * b).sum()))


def images(folder, side):
    """Two classes, eight pictures each to calibrate on and one each to measure."""
    generator = numpy.random.default_rng(1)
    for split, count in (("train", 8), ("val", 1)):
        for label in "ab":
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                noise = generator.integers(0, 256, (side, side, 3), dtype=numpy.uint8)
                picture = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(side / 64 + number))
                picture.save(folder / split / label / f"{number}.png")


def check(name, bits, folder):
    run, data, coded, file = folder / "run", folder / "data", folder / "coded", folder / "model.onnx"
    if not run.exists():
        tessera("init", name, "--out", run)
        scatter(run / "model.safetensors", numpy.random.default_rng(0))
        tessera("export", run, "--format", "onnx", "--out", file)
        side = onnx.load(file).graph.input[0].type.tensor_type.shape.dim[2].dim_value
        images(data, side)
    tessera("quantize", run, "--data", data, "--out", coded, "--bits", bits, "--calibration", 16, "--overwrite", "--quiet")
    tessera("export", coded, "--format", "onnx", "--out", file)
    onnx.checker.check_model(str(file), full_check=True)
    picture = data / "val" / "a" / "0.png"
    logits = {}
    for kind, source in (("float", run), ("codes", coded)):
        tessera("features", source, picture, "--out", folder / "features.safetensors")
        logits[kind] = load_file(folder / "features.safetensors")["logits"]
    pixels = normalized(file, picture)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = {"ONNX Runtime": session.run(None, {"input": pixels})[0]}
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found["OpenVINO"] = compiled([pixels])[0]
    cells = [f"{cosine(logits['float'], logits['codes']):.6f}"]
    for value in found.values():
        cells += [f"{cosine(value, logits['codes']):.6f}", f"{error(value, logits['codes']):.1e}"]
    pairs = sum(node.op_type == "QuantizeLinear" for node in onnx.load(file).graph.node)
    print(f"| {name} | {bits} | {pairs} | " + " | ".join(cells) + " |", flush=True)
    return all(cosine(value, logits["codes"]) > cosine(logits["float"], logits["codes"]) for value in found.values())


def normalized(file, picture):
    notes = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    mean, std = (numpy.array(json.loads(notes[key]), numpy.float32) for key in ("mean", "std"))
    values = numpy.asarray(Image.open(picture), numpy.float32) / 255
    return ((values - mean) / std).transpose(2, 0, 1)[None]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4])
    options = parser.parse_args()
    print("| model | bits | pairs | float: cosine | ONNX Runtime: cosine | largest difference | OpenVINO: cosine "
          "| largest difference |")
    print("| --- " * 8 + "|")
    passed = True
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            for bits in options.bits:
                try:
                    passed &= check(name, bits, pathlib.Path(folder))
                except (RuntimeError, subprocess.CalledProcessError, onnx.checker.ValidationError) as problem:
                    print(f"| {name} | {bits} | failed: {problem} |", flush=True)
                    passed = False
    sys.exit(not passed)


main()
