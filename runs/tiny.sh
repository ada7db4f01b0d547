#!/bin/sh
# The tiny model on one GPU, from folders of photographs and clips: pairs are degraded on the CPU's cores meanwhile. The same
# command goes on after a stop.
#   sh runs/tiny.sh OUTPUT FOLDER...
set -eu
output=$1
shift
program=$(dirname "$0")/../projects/train_tiny.py
python "$program" pairs --data "$@" --output "$output" &
pairs=$!
trap 'kill "$pairs" 2>/dev/null || true' EXIT
python "$program" vae --data "$@" --output "$output"
python "$program" fit --output "$output"
