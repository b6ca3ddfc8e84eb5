#!/usr/bin/env bash
# Does every family learn? The smallest variant of each, the same recipe, the first COUNT training images of
# Fashion-MNIST at SIZE x SIZE, all 10,000 test images. The cheap ones go first.
#
#   make build && Benchmarks/zoo.sh .build/release/tessera TABLE.md [PART OF A NAME]
#
# Rows are added to TABLE.md as they come; a model that has a row there is not trained again, so it can be stopped.
set -euo pipefail
tessera=$1
table=$2
only=${3:-}
count=${COUNT:-10000}
size=${SIZE:-64}
epochs=${EPOCHS:-1}
seed=${SEED:-1}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/smallest.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$here/subset.sh" "$folder/fashion-mnist" "$count"

# Vision Permutators know the sides of their maps; the others take any size, DINOv2 multiples of 14.
arguments() {
    case $1 in
        vip_*) echo "{\"segment_dim\": [$(($2 / 7)), $(($2 / 14)), $(($2 / 14)), $(($2 / 14))]}" ;;
        *) echo "{}" ;;
    esac
}

if [[ ! -s $table ]]; then
    echo "| model | accuracy | validation loss | CPU seconds | parameters | multiply-adds | peak memory (MB) |" >"$table"
    echo "| --- | --- | --- | --- | --- | --- | --- |" >>"$table"
fi
# Of the smallest DHViT the form with patches of 4: 3 % more parameters, a quarter of the work.
smallest "$tessera" | sed 's/dhvt_tiny_cifar_patch2/dhvt_tiny_cifar_patch4/' | while read -r name; do
    [[ $name == *$only* ]] || continue
    for side in "$size" $((size / 14 * 14)) 224; do
        multiply_adds=$(value multiply_adds "$("$tessera" bench "$name" --image-size $side --runs 1 --json \
            --model-args "$(arguments "$name" $side)" 2>"$folder/errors")") && echo "$multiply_adds $name $side" && break
    done
done | sort -n | while read -r multiply_adds name side; do
    grep -qF "| $name at " "$table" && continue
    TIMEFORMAT=%U
    if { time "$tessera" train "$name" --data "$folder/fashion-mnist" --out "$folder/run" --overwrite --quiet --json \
        --image-size "$side" --model-args "$(arguments "$name" "$side")" --epochs "$epochs" --batch 64 --lr 1e-3 \
        --warmup-epochs 0.2 --smoothing 0.1 --crop-padding 4 --seed "$seed" \
        >"$folder/result" 2>"$folder/errors" </dev/null; } 2>"$folder/time"; then
        result=$(<"$folder/result")
        awk -v n="$name" -v s="$side" -v a="$(value top1 "$result")" -v l="$(value loss "$result")" \
            -v t="$(<"$folder/time")" -v p="$(value parameters "$result")" -v m="$multiply_adds" \
            -v b="$(value peak_memory_mb "$result")" 'BEGIN {
                printf "| %s at %d | %.2f %% | %.3f | %.0f | %.2f M | %.1f M | %.0f |\n",
                    n, s, 100 * a, l, t, p / 1e6, m / 1e6, b }' >>"$table"
    else
        echo "$name: $(tail -n 1 "$folder/errors")" >&2
    fi
done
