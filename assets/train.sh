#!/usr/bin/env bash
# Trains the embedded checkpoint again:
#   assets/train.sh FOLDER        FOLDER holds clips and a manifest.jsonl with `path` and `license_of_repo` for each clip
# Uses the clips with a permissive licence (MIT, BSD, Apache, CC-BY) and six clips that ffmpeg generates. The same clips, ffmpeg
# and processor type give the same bytes. Needs 1.2 GB of memory, 1 GB of temporary files and about 5 minutes on two cores.
set -euo pipefail
[ $# -eq 1 ] || { sed -n 3p "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
cargo build --release --locked --manifest-path "$here/Cargo.toml" -p reelseek
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/generated"
generate() { "${REELSEEK_FFMPEG:-ffmpeg}" -nostdin -v error -f lavfi -i "$1" -t 10 -pix_fmt yuv420p -fflags +bitexact -flags:v +bitexact "$work/generated/$2"; }
generate mandelbrot=size=640x360:rate=15 fractal.mp4
generate life=size=160x90:rate=8:mold=10:death_color=#803020:life_color=#40a0ff:seed=7,scale=640:360 cells.mp4
generate gradients=size=640x360:rate=15:seed=3:speed=0.02:nb_colors=3:c0=0x205080:c1=0xe0a040:c2=0x60c070:x0=0:y0=0:x1=640:y1=360 colours.mp4
generate testsrc2=size=640x360:rate=10 testcard.mp4
generate sierpinski=size=640x360:rate=10:seed=5:type=carpet carpet.mp4
generate cellauto=size=320x180:rate=10:rule=110:seed=2,scale=640:360 rule110.mp4
model=$work/model.safetensors
"$here/target/release/reelseek" train --videos "$1" "$work/generated" --permissive "$1/manifest.jsonl" --out "$model" \
  --epochs 2 --learning-rate 0.001 --held-out 0
"$here/target/release/reelseek" fold "$model" --half --out "$here/assets/layout-gmf.safetensors" --force
