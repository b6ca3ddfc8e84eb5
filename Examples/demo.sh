#!/usr/bin/env bash
# From nothing to a trained model: learns to tell clothes apart, then names what is in a few pictures.
set -euo pipefail
tessera=$1
run=$2

# Three passes: too few for dropout and heavy augmentation to pay, so both are off.
"$tessera" train cct_2_3x2_32 --data fashion-mnist --out "$run" --overwrite \
    --model-args '{"attention_dropout": 0, "stochastic_depth": 0}' \
    --epochs "${EPOCHS:-3}" --batch 64 --lr 1.5e-3 --min-lr 1e-5 --warmup-epochs 0.2 --weight-decay 0.03 \
    --smoothing 0.05 --crop-padding 0 --hflip 0.5 --seed 1

"$tessera" evaluate "$run" --data fashion-mnist

"$tessera" data fashion-mnist --write-images "$run/images" --count 8 >/dev/null
"$tessera" predict "$run" "$run/images" --top 3
first=$(ls "$run"/images/*.png | head -n 1)
"$tessera" explain "$run" "$first" --out "$run/attention.png"
echo "open $run/report.html to see how it learned; $run/attention.png shows where it looks"
