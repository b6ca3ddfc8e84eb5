#!/usr/bin/env bash
# Does every family learn? The smallest variant of each, the same recipe, the first COUNT training images of
# Fashion-MNIST at 64x64 (or the smallest size that the architecture takes), all 10,000 test images.
#
#   make build && Benchmarks/zoo.sh .build/release/tessera [PART OF A NAME]
set -euo pipefail
tessera=$1
only=${2:-}
count=${COUNT:-10000}
epochs=${EPOCHS:-1}
seed=${SEED:-1}
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$here/subset.sh" "$folder/fashion-mnist" "$count"

# A number of a JSON object.
value() { grep -oE "\"$1\": *[0-9.e-]+" <<<"$2" | head -n 1 | grep -oE '[0-9.e-]+$'; }

# The smallest variant of each system that can be trained at this size.
smallest() {
    "$tessera" models --json | tr -d '\n' | grep -oE '\{[^{}]*\}' | while read -r line; do
        system=$(grep -oE '"system": *"[^"]*"' <<<"$line" | grep -oE '[^"]*"$' | tr -d '"')
        name=$(grep -oE '"name": *"[^"]*"' <<<"$line" | grep -oE '[^"]*"$' | tr -d '"')
        echo "$system $(value parameters "$line") $name"
    done | sort -k1,1 -k2,2n | awk '!seen[$1]++ { print $3 }'
}

echo "| model | accuracy | seconds | parameters | multiply-adds | peak memory (MB) |"
echo "| --- | --- | --- | --- | --- | --- |"
for name in $(smallest); do
    [[ $name == *$only* ]] || continue
    for size in 64 96 128 224; do
        if result=$("$tessera" train "$name" --data "$folder/fashion-mnist" --out "$folder/run" --overwrite --quiet \
            --json --image-size $size --epochs "$epochs" --batch 64 --lr 1e-3 --warmup-epochs 0.2 --smoothing 0.1 \
            --crop-padding 4 --seed "$seed" 2>"$folder/errors"); then
            adds=$(value multiply_adds "$("$tessera" bench "$name" --image-size $size --runs 1 --json)")
            awk -v n="$name" -v s=$size -v a="$(value top1 "$result")" -v t="$(value seconds "$result")" \
                -v p="$(value parameters "$result")" -v m="$adds" -v b="$(value peak_memory_mb "$result")" \
                'BEGIN { printf "| %s at %d | %.2f %% | %.0f | %.2f M | %.1f M | %.0f |\n", n, s, 100 * a, t, p / 1e6, m / 1e6, b }'
            break
        fi
        tail -n 1 "$folder/errors" >&2
    done
done
