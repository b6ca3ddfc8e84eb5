#!/usr/bin/env bash
# What does each training method give with few images? Fashion-MNIST with 1 %, 10 % and 100 % of the training images, each
# method against the same model trained plainly with the same recipe for the same number of steps; accuracy on the 10,000
# test images after the last step. Teachers see the images of their students only. A line of OUT/log.tsv is a result
# (fraction, seed, run, accuracy, seconds); runs that stand there are not repeated, so it can be stopped and started again.
#
#   make build && Benchmarks/methods.sh .build/release/tessera
#
# RUNS chooses runs by name, LONGER multiplies the epochs, OUT keeps such results apart:
#
#   OUT=results/longer LONGER=4 RUNS="teacher plain kd" CHAINS="0.01:1" Benchmarks/methods.sh .build/release/tessera
set -euo pipefail
tessera=$1
out=${OUT:-results/methods}
jobs=${JOBS:-2}
# fraction:seed, each a chain of runs that one job works through.
chains=${CHAINS:-0.01:1 0.01:2 0.01:3 0.1:1 0.1:2 1:1 0.1:3}
export tessera out
mkdir -p "$out"
touch "$out/log.tsv"

chain() {
    set -euo pipefail
    local fraction=${1%:*} seed=${1#*:} epochs
    case $fraction in 0.01) epochs=60 ;; 0.1) epochs=4 ;; *) epochs=1 ;; esac
    epochs=$((epochs * ${LONGER:-1}))

    # train RUN MODEL ARGUMENTS...: one training of `epochs`, unless its result is known or not wanted.
    train() {
        local name=$1 model=$2 begin=$SECONDS result
        shift 2
        [[ -z ${RUNS:-} || " $RUNS " == *" $name "* ]] || return 0
        grep -q "^$fraction	$seed	$name	" "$out/log.tsv" && return
        result=$("$tessera" train "$model" --data fashion-mnist --fraction "$fraction" --seed "$seed" \
            --out "$(run "$name")" --overwrite --quiet --json --threads 1 --workers 1 --val-interval 1000 \
            --epochs "$epochs" --warmup-epochs "$(awk -v e="$epochs" 'BEGIN { print e / 10 }')" --batch 64 --lr 1e-3 \
            --min-lr 1e-5 --smoothing 0 --crop-padding 0 --hflip 0.5 "$@")
        printf '%s\t%s\t%s\t%s\t%s\n' "$fraction" "$seed" "$name" \
            "$(grep -oE '"top1": *[0-9.e-]+' <<<"$result" | grep -oE '[0-9.e-]+$' || echo none)" $((SECONDS - begin)) \
            >>"$out/log.tsv"
    }
    run() { echo "$out/$fraction-$seed-$1"; }

    local size='"img_size": 28, "patch_size": 7, "depth": 3, "num_heads": 6'
    local small="{$size, \"embed_dim\": 48}" wide="{$size, \"embed_dim\": 96}"
    student() { train "$1" deit_tiny_patch16_224 --model-args "$small" "${@:2}"; }
    distilled() { train "$1" deit_tiny_distilled_patch16_224 --model-args "$small" "${@:2}"; }

    # The convolutional teacher, on the same images. With the students' rate and batch it would know less than they do.
    train teacher cifar_resnet56_c10 --model-args '{"depth": 8, "widths": [8, 16, 32]}' --batch 16 --lr 1e-2 \
        --epochs $(((epochs + 1) / 2)) --warmup-epochs 0.5

    student plain
    student plain_twice --epochs $((2 * epochs))
    student kd --method kd --teacher "$(run teacher)" --distillation-type kl --distillation-tau 3
    student drloc --method drloc --drloc-warmup-epochs 0 --drloc-width 64
    student locality_guidance --method locality_guidance --teacher "$(run teacher)"
    student bootstrapping_joint --method bootstrapping
    student bootstrapping_shared --method bootstrapping --bootstrapping-form shared

    distilled plain_token
    distilled deit_hard --method deit --teacher "$(run teacher)"
    distilled deit_soft --method deit --teacher "$(run teacher)" --distillation-type soft --distillation-tau 3 \
        --distillation-alpha 0.1

    # Pre-training without labels on the same images, twice as long, then the same steps as the others.
    local longer=(--epochs $((2 * epochs)) --opt-betas 0.9 0.95 --sched mae)
    local mae=(--method mae --mae-norm-pix --mae-decoder-width 48 --mae-decoder-depth 2 --mae-decoder-heads 4)
    student mae_encoder "${longer[@]}" "${mae[@]}"
    student mae --from "$(run mae_encoder)"
    train tinymim_teacher deit_tiny_patch16_224 --model-args "$wide" "${longer[@]}" "${mae[@]}"
    student tinymim_encoder "${longer[@]}" --method tinymim --teacher "$(run tinymim_teacher)"
    student tinymim --from "$(run tinymim_encoder)"

    [[ $fraction == 1 ]] && return
    columns='{"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 1], "num_subnet": 4, "inter_supv": true}'
    train revcol revcol_tiny --image-size 32 --model-args "$columns"
    train intermediate_supervision revcol_tiny --image-size 32 --model-args "$columns" --method intermediate_supervision
}
export -f chain
tr ' ' '\n' <<<"$chains" | xargs -P "$jobs" -I{} bash -c 'chain {}'

# Means over the seeds with the least and the greatest, and the same of the difference to the same model trained plainly.
awk -F '\t' '
    BEGIN {
        split("plain plain_twice kd drloc locality_guidance bootstrapping_joint bootstrapping_shared mae tinymim " \
            "plain_token deit_hard deit_soft revcol intermediate_supervision teacher", names, " ")
        base["plain_token"] = base["deit_hard"] = base["deit_soft"] = "plain_token"
        base["revcol"] = base["intermediate_supervision"] = "revcol"
    }
    { result[$3, $1, $2] = 100 * $4; seeds[$1] = $2 > seeds[$1] ? $2 : seeds[$1] }
    # The mean of name, or of what it is above another run, over the seeds of a fraction.
    function cell(name, other, f,   s, n, v, sum, least, most, form) {
        for (s = 1; s <= seeds[f]; s++) if ((name, f, s) in result && (other == "" || (other, f, s) in result)) {
            v = result[name, f, s] - (other == "" ? 0 : result[other, f, s])
            least = n == 0 || v < least ? v : least
            most = n == 0 || v > most ? v : most
            n++
            sum += v
        }
        form = other == "" ? "%.2f" : "%+.2f"
        if (n == 0) return "–"
        return sprintf(form, sum / n) (n == 1 ? "" : sprintf(" (" form " to " form ")", least, most))
    }
    END {
        print "| run | 1 % | against plain | 10 % | against plain | 100 % | against plain |"
        print "| --- | --- | --- | --- | --- | --- | --- |"
        for (i = 1; i in names; i++) {
            name = names[i]
            line = "| `" name "` |"
            other = name in base ? base[name] : "plain"
            if (name == other || name == "teacher") other = ""
            split("0.01 0.1 1", fractions, " ")
            for (k = 1; k <= 3; k++)
                line = line " " cell(name, "", fractions[k]) " | " (other == "" ? "" : cell(name, other, fractions[k]) " ") "|"
            print line
        }
    }' "$out/log.tsv"
