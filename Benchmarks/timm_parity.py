"""Models of timm, imported and exported: logits here against timm's own, on photographs.

The weights are timm's random ones, drawn further apart so that every layer matters; nothing is downloaded. Each model is
saved by timm itself as safetensors and as .pth, imported from both, run, exported and loaded back by timm, strictly.
The last two columns are the errors of these logits and of timm's against timm's in float64.
    python3 -m venv .venv && .venv/bin/pip install torch torchvision timm==1.0.31
    swift build -c release --product tessera
    .venv/bin/python Benchmarks/timm_parity.py PHOTOGRAPH... [--models NAME...]
"""

import argparse
import filecmp
import pathlib
import subprocess
import sys
import tempfile

import numpy
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models import save_for_hf

MODELS = [
    "vit_tiny_patch16_224", "vit_small_patch32_384", "deit_tiny_distilled_patch16_224", "mobilevit_xxs",
    "xcit_nano_12_p16_224", "swin_tiny_patch4_window7_224", "pvt_v2_b0", "pvt_v2_b2_li", "mixer_s32_224",
    "resmlp_12_224", "gmlp_ti16_224", "resnet18", "resnet50", "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
]
TESSERA = pathlib.Path(__file__).parent.parent / ".build/release/tessera"
TOLERANCE = 1e-4


def tessera(*arguments):
    result = subprocess.run([TESSERA, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"tessera {' '.join(map(str, arguments))}\n{result.stderr}")


def scattered(model):
    """Fresh weights have many ones and zeros; a mix-up of those would go unseen."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.ndim <= 1 or name.endswith(("alpha", "beta")):
                tensor.add_(torch.randn_like(tensor) * 0.1)
            elif not tensor.any():
                tensor.normal_(0, 0.02)
    return model.eval()


def logits(model, images):
    configuration = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**configuration, is_training=False)
    with torch.no_grad():
        return torch.cat([model(transform(Image.open(path).convert("RGB"))[None]) for path in images])


def exact_logits(model, images):
    """In float64 from the pixels on: what is between 0 and 255 has no rounding yet."""
    configuration = timm.data.resolve_model_data_config(model)
    *geometry, _, normalize = timm.data.create_transform(**configuration, is_training=False).transforms
    mean, deviation = (torch.as_tensor(v, dtype=torch.float64) for v in (normalize.mean, normalize.std))
    results = []
    for path in images:
        picture = Image.open(path).convert("RGB")
        for step in geometry:
            picture = step(picture)
        pixels = torch.from_numpy(numpy.array(picture)).double()
        with torch.no_grad():
            results.append(model.double()(((pixels / 255 - mean) / deviation).permute(2, 0, 1)[None]))
    return torch.cat(results)


def error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def check(name, images, folder):
    torch.manual_seed(0)
    model = scattered(timm.create_model(name))
    expected = logits(model, images)
    save_for_hf(model, folder / "timm", safe_serialization=True)
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, folder / "model.pth")
    tessera("import", folder / "timm", "--out", folder / "run")
    tessera("import", folder / "model.pth", "--model", name, "--out", folder / "run_pth")
    same = filecmp.cmp(folder / "run/model.safetensors", folder / "run_pth/model.safetensors", shallow=False)
    tessera("features", folder / "run", *images, "--out", folder / "features.safetensors")
    found = load_file(folder / "features.safetensors")["logits"]
    tessera("export", folder / "run", "--format", "timm", "--out", folder / "exported")
    back = timm.create_model(f"local-dir:{folder / 'exported'}", pretrained=True).eval()
    returns = torch.equal(logits(back, images), expected)
    exact = exact_logits(model, images)
    return error(found, expected), same, returns, error(found, exact), error(expected, exact)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    options = parser.parse_args()
    failures = 0
    print(f"{'model':34} {'error':>9}  .pth the same  back in timm the same  against float64: here     timm")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            deviation, same, returns, ours, timms = check(name, options.images, pathlib.Path(folder))
        failures += not (deviation <= TOLERANCE and same and returns)
        answers = f"{'yes' if same else 'NO':13}  {'yes' if returns else 'NO':21}"
        print(f"{name:34} {deviation:9.1e}  {answers} {ours:22.1e} {timms:8.1e}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
