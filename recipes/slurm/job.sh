# shellcheck shell=bash disable=SC2034 # PLACE and RESUME are read by the batch files
# Sourced by the batch files beside it. What they share: the environment, a look at what they need before anything
# starts, a Ray cluster over the nodes of a job, the signal ahead of the time limit, and going on after a requeue.
#
# Reads: SLURM's variables; VENV or IMAGE (and BINDS); LOGS; GPUS_PER_NODE.

# shellcheck source=recipes/slurm/ray.sh
source "${BASH_SOURCE[0]%/*}/ray.sh"

# The environment of every command: a virtual environment, or an Apptainer image where IMAGE names one.
ENVIRONMENT=()
if [ -n "${IMAGE:-}" ]; then
  ENVIRONMENT=(apptainer exec --nv)
  [ -n "${BINDS:-}" ] && ENVIRONMENT+=(--bind "$BINDS")
  ENVIRONMENT+=("$IMAGE")
elif [ -n "${VENV:-}" ]; then
  export PATH="$VENV/bin:$PATH"
fi

# Ends the job unless what it names is there: the environment, and the paths in variables. On one line each, before
# anything starts.
check_paths() { # NAMES of variables
  local name path failed=''
  complain() {
    echo "$1: set it at the top of the batch file or in the environment of sbatch" >&2
    failed=1
  }
  if [ -n "${IMAGE:-}" ]; then
    if [[ "$IMAGE" != *://* && ! -e "$IMAGE" ]]; then complain "IMAGE $IMAGE: no such file"; fi
    if ! command -v apptainer > /dev/null; then
      echo "IMAGE $IMAGE: expected the program apptainer in PATH on $(hostname), often after: module load apptainer" >&2
      failed=1
    fi
  elif [ ! -x "${VENV:-}/bin/python" ]; then
    complain "VENV ${VENV:-}: no bin/python there"
  fi
  for name in "$@"; do
    path=${!name%@\[*} # without a data set's slice
    case "$path" in
      hub:* | *[*?]*) ;; # the recipe looks for these
      *) if [ ! -e "$path" ]; then complain "$name $path: no such file or folder"; fi ;;
    esac
  done
  if [ -n "$failed" ]; then exit 2; fi
}

# Sets PLACE for a recipe: how many nodes, and ranks of each. Ends the job if a node has too few GPUs. With
# GPUS_PER_NODE=0 everything is on CPUs, and the preset or the words say how many ranks.
PLACE=()
find_place() {
  local node num look failed=''
  if [[ ! "$GPUS_PER_NODE" =~ ^[0-9]+$ ]]; then
    echo "GPUS_PER_NODE $GPUS_PER_NODE: expected a number" >&2
    exit 2
  fi
  PLACE=(--actor-num-nodes "$SLURM_JOB_NUM_NODES")
  if [ "$GPUS_PER_NODE" -eq 0 ]; then return 0; fi
  PLACE+=(--actor-num-gpus-per-node "$GPUS_PER_NODE")
  while read -r node; do
    look=(nvidia-smi -L)
    if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
      look=(srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" "${look[@]}")
    fi
    num=$("${look[@]}" 2> /dev/null < /dev/null | grep -c '^GPU ' || true)
    if [ "$num" -lt "$GPUS_PER_NODE" ]; then
      echo "node $node: expected $GPUS_PER_NODE GPUs (GPUS_PER_NODE), nvidia-smi -L lists $num" >&2
      failed=1
    fi
  done < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  if [ -n "$failed" ]; then exit 2; fi
}

RECIPE=''      # its process, while it runs
IS_CUT=''      # a signal came while it was waited for
IS_REQUEUED='' # at the end of this script

# SIGTERM comes ahead of the time limit (#SBATCH --signal). A recipe saves after the step it is in and ends with code 75;
# before it runs there is nothing to save. In both cases the job goes back into the queue to go on from there.
on_sigterm() {
  if [ -n "$RECIPE" ]; then
    IS_CUT=1
    echo "SIGTERM: saving after this step" >&2
    kill -TERM "$RECIPE" 2> /dev/null || true
  else
    echo "SIGTERM before the recipe started: the job begins again" >&2
    IS_REQUEUED=1
    exit 75
  fi
}

# At every end of the script. SLURM takes a job down as soon as it is requeued, so that comes last.
on_exit() {
  local code=$?
  trap '' TERM
  end_ray "$code"
  if [ -n "$IS_REQUEUED" ] && ! is_cancelled; then
    echo "requeued" >&2
    scontrol requeue "$SLURM_JOB_ID"
  elif [ -n "$LOCK" ]; then
    rm -f "$LOCK"
  fi
}
trap on_exit EXIT

is_cancelled() { # by scancel, whose SIGTERM comes to the script too, and not by the time limit
  local seen
  seen=$(scontrol show job "$SLURM_JOB_ID" 2> /dev/null || true)
  [[ "$seen" =~ JobState=(CANCELLED|COMPLETING) && "$seen" != *Reason=TimeLimit* ]]
}

# Sets RESUME for a run folder: --resume if it has a checkpoint. A run that ended before its first one moves aside. Ends
# the job if another one has the folder, or if the words name another folder.
RESUME=()
find_resume() { # RUN_DIR WORDS
  local run=${1%/} word checkpoints
  shift
  for word in "$@"; do
    case "$word" in --run-dir | --run-dir=*)
      echo "$word: this batch file gives it; set RUN_DIR instead" >&2
      exit 2
      ;;
    esac
  done
  lock_run "$run"
  trap on_sigterm TERM
  if [ ! -e "$run/config.yaml" ]; then return 0; fi
  checkpoints=$(sed -n 's/^save: "\(.*\)"$/\1/p' "$run/config.yaml") # as the words of its start said
  if [ -e "${checkpoints:-$run/checkpoints}/latest_checkpointed_iteration.txt" ]; then
    RESUME=(--resume)
  else
    mv "$run" "$run.before-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
  fi
}

# A file beside the run folder has the number of the job that uses it, from its start to its end, requeues included. Two
# jobs in one folder would write over each other, and the later one would move it aside.
LOCK=''
lock_run() { # RUN_DIR
  local file="$1.job" owner
  if ! (set -o noclobber && echo "$SLURM_JOB_ID" > "$file") 2> /dev/null; then
    owner=$(cat "$file" || true)
    if [ "$owner" != "$SLURM_JOB_ID" ] && is_alive "$owner"; then
      echo "RUN_DIR $1: job $owner is using it; set another, or remove $file if that job is gone" >&2
      exit 2
    fi
    echo "$SLURM_JOB_ID" > "$file"
  fi
  LOCK=$file
}

is_alive() { # JOB; one that nobody can tell of counts as alive
  local seen
  command -v squeue > /dev/null || return 0
  seen=$(squeue --noheader --jobs="$1" --format=%i 2>&1 || true)
  [[ -n "$seen" && "$seen" != *"Invalid job id"* ]]
}

# Runs a recipe to its end, that of a signal included.
run_recipe() { # COMMAND ...
  local code=127 last
  "${ENVIRONMENT[@]}" "$@" &
  RECIPE=$!
  IS_CUT=1
  while [ -n "$IS_CUT" ]; do # by the signal; a recipe that ended meanwhile still has its code, once
    IS_CUT='' last=0
    wait "$RECIPE" || last=$?
    [ "$last" -eq 127 ] || code=$last
  done
  trap '' TERM
  RECIPE=''
  if [ "$code" -eq 75 ]; then
    IS_REQUEUED=1
  fi
  return "$code"
}
