# To be sourced by other scripts.

# A number of a JSON object.
value() { grep -oE "\"$1\": *[0-9.e-]+" <<<"$2" | head -n 1 | grep -oE '[0-9.e-]+$'; }

# The variant of each system with the fewest parameters.
smallest() {
    "$1" models --json | tr -d '\n' | grep -oE '\{[^{}]*\}' | while read -r line; do
        system=$(grep -oE '"system": *"[^"]*"' <<<"$line" | grep -oE '[^"]*"$' | tr -d '"')
        name=$(grep -oE '"name": *"[^"]*"' <<<"$line" | grep -oE '[^"]*"$' | tr -d '"')
        echo "$system $(value parameters "$line") $name"
    done | sort -k1,1 -k2,2n | awk '!seen[$1]++ { print $3 }'
}
