#!/usr/bin/env bash
# Fashion-MNIST with only the first COUNT training images, and all test images, as a folder of idx files.
#
#   Benchmarks/subset.sh FOLDER COUNT
set -euo pipefail
folder=$1
count=$2
source=${DATA:-/usr/share/datasets/fashion-mnist}
mkdir -p "$folder"

# The bytes of a file from a place on.
bytes() { dd if="$1" iflag=skip_bytes,count_bytes skip="$2" count="$3" bs=1M status=none; }

# first NAME HEADER-BYTES BYTES-OF-ONE: an idx file of the first images or labels, its big-endian count rewritten.
first() {
    local whole="$folder/whole" number
    gzip -dc "$source/train-$1.gz" >"$whole"
    printf -v number '\\x%02x' $((count >> 24 & 255)) $((count >> 16 & 255)) $((count >> 8 & 255)) $((count & 255))
    { bytes "$whole" 0 4; printf "$number"; bytes "$whole" 8 $(($2 - 8)); bytes "$whole" "$2" $((count * $3)); } \
        >"$folder/train-$1"
    rm "$whole"
}
first images-idx3-ubyte 16 784
first labels-idx1-ubyte 8 1
cp "$source"/t10k-*.gz "$folder"
