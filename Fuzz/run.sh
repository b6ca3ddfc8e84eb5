#!/usr/bin/env bash
# Runs libFuzzer on formats (all, if none is named) and prints a row of the table in README.md for each.
#
#   RUNS=2000000 SECONDS_EACH=900 Fuzz/run.sh [FORMAT...]
#
# Inputs that were interesting stay in .build-libfuzz/corpus/FORMAT, what was found in .build-libfuzz/found.
set -uo pipefail
cd "$(dirname "$0")/.."
formats=("$@")
[ $# -gt 0 ] || formats=(json configuration published safetensors torch torch-old onnx onnx-graph checkpoint events metrics
    idx cifar tar jpg png webp)
build=.build-libfuzz
mkdir -p "$build/found"
export ASAN_OPTIONS=detect_leaks=0 SWIFT_BACKTRACE=enable=no

status=0
for format in "${formats[@]}"; do
    corpus="$build/corpus/$format"
    log="$build/$format.log"
    mkdir -p "$corpus"
    # No input is larger than 20 KB, so an allocation of 256 MB is out of proportion to any.
    TESSERA_FUZZ_TARGET=$format "$build/release/Fuzz" "$corpus" -dict="$corpus.dict" -artifact_prefix="$build/found/$format-" \
        -runs="${RUNS:-2000000}" -max_total_time="${SECONDS_EACH:-900}" -max_len=20480 -timeout=10 -malloc_limit_mb=256 \
        -rss_limit_mb=1024 -detect_leaks=0 -print_final_stats=1 -seed=1 >"$log" 2>&1 || status=1
    stat() { sed -n "s/^stat::$1: *//p" "$log"; }
    seconds=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log")
    found=$(find "$build/found" -regex ".*/$format-\(crash\|timeout\|oom\|leak\)-.*" | wc -l)
    echo "| $format | $(stat number_of_executed_units) | ${seconds:-ended early} | $(stat peak_rss_mb) | $found |"
done
exit $status
