#!/usr/bin/env bash
# From nothing to a trained model: learns to tell clothes apart, then names what is in a few pictures.
set -euo pipefail
tessera=$1
run=$2

"$tessera" train cct_2_3x2_32 --data fashion-mnist --out "$run" --overwrite --precision fastest \
    --recipe "$(dirname "$0")/../Recipes/fashion_mnist.yaml" ${EPOCHS:+--epochs "$EPOCHS"}

"$tessera" evaluate "$run" --data fashion-mnist

"$tessera" data fashion-mnist --write-images "$run/images" --count 8 >/dev/null
"$tessera" predict "$run" "$run/images" --top 3
first=$(ls "$run"/images/*.png | head -n 1)
"$tessera" explain "$run" "$first" --out "$run/attention.png"
echo "open $run/report.html to see how it learned; $run/attention.png shows where it looks"
