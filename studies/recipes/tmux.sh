#!/usr/bin/env bash
# A study on one machine that goes on when you log out: bash tmux.sh study.toml [WORKERS]
# One worker per GPU (or WORKERS), each in a window of the tmux session "genopt"; look with: tmux attach -t genopt
# A worker that is killed starts again; one that reached the verdict (0), was interrupted (130) or met a mistake (2) ends.
set -euo pipefail

study="${1:?name the study file: bash tmux.sh study.toml [WORKERS]}"
gpus="$(nvidia-smi --list-gpus 2>/dev/null | wc -l)" || gpus=0
workers="${2:-$((gpus > 0 ? gpus : 1))}"
session="${SESSION:-genopt}"
genopt="${GENOPT:-genopt}"

worker() { # worker NUMBER: the command line of one worker
    local device=""
    [ "$gpus" -eq 0 ] || device="CUDA_VISIBLE_DEVICES=$(($1 % gpus)) "
    # shellcheck disable=SC2016 # the window's own shell expands it
    printf 'while :; do %s%q optimize %q; code=$?; case $code in 0|2|130) break;; esac; sleep "${PAUSE:-10}"; done; echo "ended: $code"; exec bash' \
        "$device" "$genopt" "$study"
}

tmux new-session -d -s "$session" -n worker-0 "$(worker 0)"
for ((n = 1; n < workers; n++)); do
    sleep 2 # the first one makes the study
    tmux new-window -d -t "$session" -n "worker-$n" "$(worker "$n")"
done
echo "running in tmux: tmux attach -t $session"
