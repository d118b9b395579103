#!/usr/bin/env bash
# Compares the time of indexing with its floor, plain decoding, and measures a search in a fresh process.
#   benches/decode_floor.sh FOLDER PICTURE [ROUNDS]
# Alternates `reelseek index` into a fresh folder with ffmpeg, which decodes the same files at the same rate
# and size and discards the frames, with one process per core. Prints the median time of each and their ratio.
# Then measures `reelseek search` from start to exit.
set -euo pipefail
[ $# -ge 2 ] || { sed -n 2,3p "$0" >&2; exit 2; }
folder=$1 picture=$2 rounds=${3:-5}
here=$(cd "$(dirname "$0")/.." && pwd)
cargo build --release --quiet --manifest-path "$here/Cargo.toml" -p reelseek
reelseek=$here/target/release/reelseek
ffmpeg=${REELSEEK_FFMPEG:-ffmpeg}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
now() { date +%s.%N; }
median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

"$reelseek" index --index "$work/list" "$folder" >&2
# The largest files first, as the indexer does.
"$reelseek" info --index "$work/list" --videos --json |
  python3 -c 'import json, os, sys
for v in sorted((v["path"] for v in json.load(sys.stdin)["list"]), key=os.path.getsize, reverse=True): sys.stdout.write(v + "\0")' >"$work/files"
decode() {
  xargs -0 -P "$(nproc)" -I{} "$ffmpeg" -nostdin -v error -threads 1 -i file:{} -map 0:V:0 -an \
    -filter_threads 1 -threads 1 -vf setpts=PTS-STARTPTS,fps=fps=4:round=up,scale=64:64:flags=area,format=rgb24 \
    -f rawvideo -y /dev/null <"$work/files" 2>/dev/null
}
for round in $(seq "$rounds"); do
  start=$(now); decode; end=$(now)
  echo "$end - $start" | bc >>"$work/floor"
  rm -rf "$work/index"
  start=$(now); "$reelseek" index --index "$work/index" "$folder" >/dev/null; end=$(now)
  echo "$end - $start" | bc >>"$work/ours"
  echo "round $round: ffmpeg $(tail -1 "$work/floor") s, reelseek index $(tail -1 "$work/ours") s" >&2
done
for _ in $(seq 41); do
  start=$(now); "$reelseek" search --index "$work/index" "$picture" >/dev/null 2>&1; end=$(now)
  echo "($end - $start) * 1000" | bc >>"$work/search"
done
floor=$(median <"$work/floor") ours=$(median <"$work/ours")
echo "decoding alone   $floor s (median of $rounds)"
echo "reelseek index   $ours s"
echo "ratio            $(echo "scale=3; $ours / $floor" | bc)"
echo "reelseek search  $(median <"$work/search") ms from start to exit (median of 41)"
