#!/bin/sh
# The tiny model on one GPU, from folders of photographs and clips: pairs are degraded on the CPU while the VAE trains.
#   sh projects/train_tiny.sh OUTPUT FOLDER...
set -eu
output=$1
shift
root=$(dirname "$0")
python "$root/train_tiny.py" pairs --data "$@" --output "$output" &
pairs=$!
trap 'kill "$pairs" 2>/dev/null || true' EXIT
python "$root/train_tiny.py" vae --data "$@" --output "$output"
python "$root/train_tiny.py" dit --data "$@" --output "$output"
python "$root/fit_tiny.py" --run "$output" --output "$output/one_step"
touch "$output/pairs/stop"
