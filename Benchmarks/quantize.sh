#!/bin/bash
# The tables of quantization in Documentation/Results.md and Documentation/Performance.md: each method at each number of
# bits on the shipped model, then forward passes in float32 and in codes, alternately.
# Usage: Benchmarks/quantize.sh .build/release/tessera
set -euo pipefail
TESSERA=$1
MODEL=${MODEL:-Models/cct_2_3x2_fashion}
DATA=${DATA:-fashion-mnist}
ROUNDS=${ROUNDS:-2}
OUT=$(mktemp -d)
trap 'rm -rf "$OUT"' EXIT

for method in mptq sqb smoothquant minmax; do
    for bits in "--bits 8" "--weights 4 --activations 8" "--bits 6" "--bits 5" "--bits 4" "--average-bits 5"; do
        # shellcheck disable=SC2086
        result=$("$TESSERA" quantize "$MODEL" --data "$DATA" --out "$OUT/run" --overwrite --quiet --method $method $bits)
        echo "$method $bits: $(grep -E '^(accuracy|loss)' <<<"$result" | paste -sd ' ')"
    done
done

for model in deit_tiny_patch16_224 deit_small_patch16_224 vit_base_patch16_224; do
    for batch in 1 16; do
        for ((round = 0; round < ROUNDS; round++)); do
            "$TESSERA" bench "$model" --batch "$batch" --runs 9
            "$TESSERA" bench "$model" --batch "$batch" --runs 9 --precision int8
        done
    done
done
