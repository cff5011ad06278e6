#!/bin/sh
# What a hospital does with a model that it received: inspect, audit, calibrate, screen.
#
#     python examples/vendor.py --films /data/films --backdoor --out vendor.pt
#     sh examples/hospital.sh vendor.pt PNEUMONIA folder:/data/clean /data/arrived
#
# MODEL    the file that the vendor sent
# FINDING  names of its outputs, in order, separated by commas
# CLEAN    your own labelled films without a trigger, as a source: folder:PATH, phantom:64, ...
# ARRIVED  films that the model is about to read: files or folders
# Further words are settings of CLEAN, as --source.count 300. INSPECT and AUDIT hold further words of
# these commands, as INSPECT="--model.normalisation unit" AUDIT="--reference models".
set -u
if [ $# -lt 4 ]; then
    echo "usage: sh hospital.sh MODEL FINDING CLEAN ARRIVED [--source.NAME VALUE ...]" >&2
    exit 4
fi
model=$1 finding=$2 clean=$3 arrived=$4
shift 4
stem=${model%.*}

# 0, 1 and 3 are answers: nothing found, found, can't tell. Anything else is a failure.
answer() {
    echo "$ leadapron $*"
    leadapron "$@"
    code=$?
    echo "exit code $code"
    echo
    case $code in 0 | 1 | 3) ;; *) exit $code ;; esac
}

# How does it read films? The card beside the model keeps the answer for all commands below.
# shellcheck disable=SC2086
answer inspect "$model" --model.findings "$finding" --clean "$clean" "$@" --out "$stem.yaml" \
    ${INSPECT-}

# Does it carry a backdoor?
# shellcheck disable=SC2086
answer audit "$model" --clean "$clean" "$@" --films 120 --out "$stem-audit" ${AUDIT-}

# What is a film of ours like, to this model? The gate is for this file alone.
answer calibrate "$model" --clean "$clean" "$@" --false-alarm 0.01 --out "$stem-gate.json"

# Do the films that arrived carry a trigger?
answer screen "$stem-gate.json" "$arrived" --out "$stem-screened"
exit "$code"
