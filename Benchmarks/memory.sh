#!/usr/bin/env bash
# What a training step of 16 images keeps for its backward pass: the smallest variant of each system at 224x224, those
# made for 32x32 at that.
#
#   make build && Benchmarks/memory.sh .build/release/tessera
set -euo pipefail
tessera=$1
. "$(cd "$(dirname "$0")" && pwd)/smallest.sh"

echo "| model | parameters | activations (MB) | with \`--grad-checkpointing\` (MB) |"
echo "| --- | --- | --- | --- |"
for name in $(smallest "$tessera"); do
    size=224
    grep -q '"input": *\[[0-9]*, *32,' <<<"$("$tessera" models "$name" --json | tr -d '\n')" && size=32
    result=$("$tessera" bench "$name" --image-size $size --batch 16 --memory --json)
    awk -v n="$name" -v s=$size -v p="$(value parameters "$result")" -v a="$(value activation_bytes "$result")" \
        -v c="$(value checkpointed_activation_bytes "$result")" 'BEGIN {
            printf "| %s at %d | %.2f M | %.0f | %.0f |\n", n, s, p / 1e6, a / 1e6, c / 1e6 }'
done
