#!/bin/sh
# A client in shell and jq, by the written contract alone. Copy it.
#
# The game is a corridor of seven cells: the prize is at its right end, each step costs a little. The client does
# three things, and never waits for the daemon:
#
# 1. take_up: look at state/CURRENT and unpack the version that it names.
# 2. play: sixteen episodes in one jq (corridor.jq), each action with its log-probability and the version.
# 3. deposit: write them aside in spool/in under a name that starts with ".tmp-", then rename the file.
#
#     sh corridor.sh SPOOL STATE
#
# After each episode a line of JSON goes to standard output: {"at", "return", "steps", "version"}.
# Needs jq 1.6 and the GNU coreutils. The contract is in learnerd/docs/clients.md.
set -eu
spool=$1 state=$2
here=$(dirname "$0")
client_id=corridor-shell
began=$(date +%s)-$$
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' TERM
version=0
echo null >"$work/policy.json"

# The numbers of one tensor, as a JSON list: od prints as many digits as the number needs.
# $1 name, $2 F32 or F64, $3 and $4 where it begins and ends behind the header.
tensor() {
    case $2 in F32) type=f4 ;; *) type=f8 ;; esac
    od --endian=little -An -v -t "$type" -j "$((data + $3))" -N "$(($4 - $3))" "$work/model" |
        jq -cs --arg name "$1" '{($name): .}'
}

# Unpack a version: $1 its folder. A safetensors file is 8 bytes length, a JSON header, then the tensors.
load() {
    jq -r '.files["model.safetensors"] | "\(.sha256) \(.bytes)"' "$1/manifest.json" >"$work/expected" || return 1
    cp "$1/model.safetensors" "$work/model" || return 1 # what is checked is what is used
    echo "$(sha256sum <"$work/model" | cut -c 1-64) $(wc -c <"$work/model")" >"$work/found"
    cmp -s "$work/expected" "$work/found" || return 1
    length=$(od --endian=little -An -t u8 -N 8 "$work/model" | tr -d ' ')
    data=$((8 + length))
    head -c "$data" "$work/model" | tail -c "$length" >"$work/header.json"
    jq -r 'del(.__metadata__) | to_entries[] | select(.key | test("^(policy|normalizer)\\.")) |
        "\(.key) \(.value.dtype) \(.value.data_offsets | "\(.[0]) \(.[1])")"' "$work/header.json" |
        while read -r name dtype from to; do tensor "$name" "$dtype" "$from" "$to"; done >"$work/tensors.json"
    jq -L "$here" -n --slurpfile tensors "$work/tensors.json" --slurpfile manifest "$1/manifest.json" \
        'include "corridor"; policy($manifest[0]; $tensors | add)' >"$work/next.json" || return 1
    mv "$work/next.json" "$work/policy.json"
}

# Take up the version that CURRENT names; keep the one in use when there is no better one.
take_up() {
    name=$(cat "$state/CURRENT" 2>/dev/null) || return 0 # nothing has been published yet
    number=$(echo "$name" | sed 's/^0*//')               # eight digits, such as 00000042
    [ "$number" -gt "$version" ] || return 0
    if load "$state/checkpoints/$name"; then
        version=$number
    else
        echo "version $name is not usable, keeping the last one" >&2
    fi
}

# Play a round: $1 begins the episodes' ids. Random numbers come from the kernel, one a step.
play() {
    od -An -v -t u4 -N 1920 /dev/urandom | jq -s . >"$work/random.json"
    jq -L "$here" -cn --arg id "$1" --arg client "$client_id" --slurpfile policy "$work/policy.json" \
        --slurpfile random "$work/random.json" 'include "corridor"; round($policy[0]; $random[0])'
}

# $1 a file of whole episodes, $2 its name: from the rename on it belongs to the daemon.
deposit() {
    cp "$1" "$spool/in/.tmp-$2"
    mv "$spool/in/.tmp-$2" "$spool/in/$2"
}

round=0
while :; do
    round=$((round + 1))
    take_up # between episodes: one version plays a whole episode
    play "$began-$round" >"$work/round.jsonl"
    deposit "$work/round.jsonl" "$client_id-$began-$round.jsonl"
    jq -L "$here" -cn 'include "corridor"; reports' "$work/round.jsonl"
done
