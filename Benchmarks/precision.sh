#!/usr/bin/env bash
# Does training with products of bfloat16 numbers or of 16-bit codes learn as well as with float32? The demo's recipe on
# the first COUNT training images of Fashion-MNIST, accuracy on all 10,000 test images, for several seeds.
#
#   make build && Benchmarks/precision.sh .build/release/tessera
set -euo pipefail
tessera=$1
count=${COUNT:-20000}
epochs=${EPOCHS:-2}
seeds=${SEEDS:-1 2}
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$here/subset.sh" "$folder/fashion-mnist" "$count"

echo "| precision | seed | accuracy | test loss | seconds |"
echo "| --- | --- | --- | --- | --- |"
for seed in $seeds; do
    for precision in float32 bfloat16 int16; do
        result=$("$tessera" train cct_2_3x2_32 --data "$folder/fashion-mnist" --out "$folder/run" --overwrite --quiet \
            --json --recipe "$here/../Recipes/fashion_mnist.yaml" --epochs "$epochs" --seed "$seed" \
            --precision "$precision")
        value() { grep -oE "\"$1\": *[0-9.e-]+" <<<"$result" | grep -oE '[0-9.e-]+$'; }
        awk -v a="$(value top1)" -v l="$(value loss)" -v t="$(value seconds)" -v p="$precision" -v s="$seed" \
            'BEGIN { printf "| %s | %s | %.2f %% | %.4f | %.0f |\n", p, s, 100 * a, l, t }'
    done
done
