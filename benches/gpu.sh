#!/bin/bash
# Try the harness on one GPU, in a few minutes, and keep what comes out in a folder.
#
#     benches/gpu.sh FOLDER [--device cpu]
#
# It prepares the data of gpt2 and vit at base, runs the tests that need a GPU, measures prices and
# the overhead of a race over a bare loop, and races AdamW and Muon at base for a slice of the
# budget, in float32, bfloat16 and float16. With --device cpu it does the same in short at mini: a rehearsal of this
# script. FOLDER/summary.txt says for each part its exit status and seconds. Each part has a time
# limit (17 minutes together), and a part that fails does not stop the others; the exit status is 1
# if one did. A table of prices that a busy machine has spoilt is kept, and says so in "busy".

set -u
folder=${1:?usage: benches/gpu.sh FOLDER [--device cpu]}
device=cuda
if [ "${2:-}" = "--device" ]; then device=${3:?a device: cuda or cpu}; fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.." || exit 1
summary=$folder/summary.txt
: > "$summary"
failed=0

if [ "$device" = cpu ]; then
    scale=mini engine=cpu steps=8 points=2 limit=300 kinds=(--processes 1 --rounds 1)
else
    scale=base engine=gpu steps=200 points=4 limit=75 kinds=(--processes 1 --rounds 2)
fi

# part NAME SECONDS COMMAND...: run a part, with its output in FOLDER/NAME.txt
part() {
    local name=$1 seconds=$2 begun=$SECONDS
    shift 2
    timeout "$seconds" "$@" > "$folder/$name.txt" 2>&1
    local status=$?
    echo "$name: status $status, $((SECONDS - begun)) s" | tee -a "$summary"
    if [ "$status" -ne 0 ]; then failed=1; fi
}

# race WORKLOAD SUBMISSION NAME SETTINGS...: a slice of a race that ends with its budget
race() {
    local workload=$1 submission=$2 name=$3
    shift 3
    part "race-$name" "$limit" python -m benches.gpu race "$workload" "$submission" \
        --scale "$scale" --steps "$steps" --points "$points" --engine "$engine" \
        --results "$folder/results" "$@"
}

part doctor 30 python -m harness doctor
# The first time, this reads and tokenises 17 million tokens, and fetches pictures of garments.
part data 200 python -m benches.gpu prepare gpt2 vit --scale "$scale"
if [ "$device" != cpu ]; then
    part tests 120 python -m pytest -q -m gpu tests/train/test_gpu.py
else
    part tests 60 python -m pytest -q -m gpu --collect-only tests/train/test_gpu.py
fi
for workload in gpt2 vit; do
    part "prices-$workload" "$limit" python -m harness calibrate "workload=$workload" \
        "scale=$scale" "engine=$engine" "${kinds[@]}" --anyway \
        --out "$folder/$workload.$scale.$device.json"
done
part overhead "$limit" python -m benches.gpu overhead --scale "$scale" --engine "$engine" \
    --steps "$steps" --results "$folder/results"
for submission in adamw muon; do
    race gpt2 "$submission" "$submission"
done
race gpt2 adamw bf16 engine.precision=bf16
race gpt2 adamw fp16 engine.precision=fp16
race gpt2 adamw checkpointing engine.checkpointing=true
if [ "$device" != cpu ]; then
    race gpt2 adamw compile engine.compile=true engine.precision=bf16
fi
exit "$failed"
