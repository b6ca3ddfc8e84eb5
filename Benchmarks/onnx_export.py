"""Every architecture as ONNX: the smallest variant of each paper, in ONNX Runtime and OpenVINO against tessera.

The weights are random, drawn further apart than fresh ones so that every layer matters; the image is noise in a PNG of the
model's own size. Each graph passes onnx.checker and runs with one image and with three.
    python3 -m venv .venv && .venv/bin/pip install onnx onnxruntime openvino safetensors pillow
    swift build -c release --product tessera
    .venv/bin/python Benchmarks/onnx_export.py [--models NAME...] [--external-data]
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
from PIL import Image
from safetensors.numpy import load_file, save_file

TESSERA = pathlib.Path(__file__).parent.parent / ".build/release/tessera"
TOLERANCE = 1e-4


def tessera(*arguments):
    result = subprocess.run([TESSERA, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr.strip())
    return result.stdout


def smallest_variants():
    best = {}
    for model in json.loads(tessera("models", "--json")):
        if model["system"] not in best or model["multiply_adds"] < best[model["system"]]["multiply_adds"]:
            best[model["system"]] = model
    return [model["name"] for model in best.values()]


def scatter(path, generator):
    """Fresh weights have many ones and zeros; a mix-up of those would go unseen."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith("running_var"):
            tensor[:] = generator.uniform(0.5, 2, tensor.shape)
        elif tensor.ndim <= 1 or not tensor.any():
            tensor += (0.05 * generator.standard_normal(tensor.shape)).astype(tensor.dtype)
    save_file(tensors, path, metadata={"format": "pt"})


def error(found, expected):
    return numpy.abs(found - expected).max() / numpy.abs(expected).max()


def check(name, folder, external):
    generator = numpy.random.default_rng(0)
    run, file = folder / "run", folder / "model.onnx"
    tessera("init", name, "--out", run)
    scatter(run / "model.safetensors", generator)
    tessera("export", run, "--format", "onnx", "--out", file, *(["--external-data"] if external else []))
    onnx.checker.check_model(str(file), full_check=True)
    nodes = len(onnx.load(str(file), load_external_data=False).graph.node)

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    channels, height, width = json.loads(notes["input_size"])
    pixels = generator.integers(0, 256, (3, height, width, channels), dtype=numpy.uint8)
    paths = []
    for index, image in enumerate(pixels):
        paths.append(folder / f"{index}.png")
        Image.fromarray(image.squeeze()).save(paths[-1])
    tessera("features", run, *paths, "--out", folder / "features.safetensors")
    expected = load_file(folder / "features.safetensors")["logits"]
    mean, deviation = (numpy.array(json.loads(notes[key]), numpy.float32) for key in ("mean", "std"))
    batch = ((pixels.astype(numpy.float32) / 255 - mean) / deviation).transpose(0, 3, 1, 2).copy()

    errors = []
    for images, logits in ((batch[:1], expected[:1]), (batch, expected)):
        errors.append(error(session.run(["logits"], {"input": images})[0], logits))
    core = openvino.Core()
    # Its default on processors that have them is half precision.
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    compiled = core.compile_model(str(file), "CPU")
    for images, logits in ((batch[:1], expected[:1]), (batch, expected)):
        errors.append(error(compiled([images])[0], logits))
    return nodes, errors


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--external-data", action="store_true")
    options = parser.parse_args()
    names = options.models or smallest_variants()
    failures = 0
    print(f"{'model':36} nodes  ONNX Runtime: 1 image, 3   OpenVINO: 1 image, 3", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                nodes, errors = check(name, pathlib.Path(folder), options.external_data)
            except Exception as problem:
                failures += 1
                print(f"{name:36} FAILED: {str(problem)[:300]}", flush=True)
                continue
        failures += not max(errors) <= TOLERANCE
        print(f"{name:36} {nodes:5}  " + "  ".join(f"{value:10.1e}" for value in errors)
              + ("" if max(errors) <= TOLERANCE else "  TOO MUCH"), flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
