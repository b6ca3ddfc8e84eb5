"""Models of Hugging Face's transformers, imported: logits or features here against theirs, on photographs.

Random weights, saved by transformers itself; nothing is downloaded.
    python3 -m venv .venv && .venv/bin/pip install torch torchvision transformers==5.23.0
    swift build -c release --product tessera
    .venv/bin/python Benchmarks/transformers_parity.py PHOTOGRAPH... [--models NAME...]
"""

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers as T
from PIL import Image
from safetensors.torch import load_file

from timm_parity import TOLERANCE, error, scattered, tessera

TINY = dict(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)
DINO = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14)
MODELS = {
    "vit": (T.ViTForImageClassification, T.ViTConfig(**TINY, num_labels=7)),
    "deit": (T.DeiTForImageClassificationWithTeacher, T.DeiTConfig(**TINY)),
    "dinov2": (T.Dinov2Model, T.Dinov2Config(**DINO, image_size=518)),
    "dinov2_registers": (T.Dinov2WithRegistersModel, T.Dinov2WithRegistersConfig(**DINO, image_size=518)),
    "swin": (T.SwinForImageClassification, T.SwinConfig(num_labels=1000)),
    "cvt": (T.CvtForImageClassification, T.CvtConfig(num_labels=1000)),
    "pvt": (T.PvtForImageClassification, T.PvtConfig(num_labels=1000)),
    "pvt_v2": (T.PvtV2ForImageClassification, T.PvtV2Config(num_labels=1000)),
    "mobilevit": (
        T.MobileViTForImageClassification,
        T.MobileViTConfig(
            hidden_sizes=[64, 80, 96], neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320], expand_ratio=2.0
        ),
    ),
    "resnet": (
        T.ResNetForImageClassification,
        T.ResNetConfig(depths=[2, 2, 2, 2], layer_type="basic", hidden_sizes=[64, 128, 256, 512], embedding_size=64),
    ),
}


def processor(name, config):
    """What preprocessor_config.json says, and the same in Pillow and NumPy."""
    size = config.image_size if isinstance(getattr(config, "image_size", None), int) else 224
    flip = name == "mobilevit"
    saved = {
        "do_resize": True, "size": {"shortest_edge": size + 32}, "resample": 2 if flip else 3, "do_center_crop": True,
        "crop_size": {"height": size, "width": size}, "do_normalize": not flip, "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4], "do_flip_channel_order": flip,
    }

    def apply(path):
        image = Image.open(path).convert("RGB")
        scale = (size + 32) / min(image.size)
        sides = [size + 32 if side == min(image.size) else int(side * scale) for side in image.size]
        image = image.resize(sides, saved["resample"])
        # An odd pixel beside the crop falls as in torchvision and timm, on the other side than in transformers.
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
        pixels = pixels[..., ::-1] if flip else (pixels - saved["image_mean"]) / saved["image_std"]
        return torch.tensor(pixels.astype(np.float32).transpose(2, 0, 1).copy())

    return saved, apply


def answer(model, pixels):
    with torch.no_grad():
        output = model(pixel_values=pixels)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state[:, 0]


def check(name, images, folder):
    kind, config = MODELS[name]
    torch.manual_seed(0)
    model = scattered(kind(config))
    saved, apply = processor(name, config)
    expected = torch.cat([answer(model, apply(path)[None]) for path in images])
    model.save_pretrained(folder / "published", max_shard_size="20MB")
    (folder / "published/preprocessor_config.json").write_text(json.dumps(saved))
    tessera("import", folder / "published", "--out", folder / "run")
    tessera("features", folder / "run", *images, "--out", folder / "features.safetensors")
    found = load_file(folder / "features.safetensors")["logits"]
    return error(found, expected), json.loads((folder / "run/config.json").read_text())["architecture"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    options = parser.parse_args()
    failures = 0
    print(f"{'model':18} {'error':>9}  recognised as")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            deviation, architecture = check(name, options.images, pathlib.Path(folder))
        failures += not deviation <= TOLERANCE
        print(f"{name:18} {deviation:9.1e}  {architecture}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
