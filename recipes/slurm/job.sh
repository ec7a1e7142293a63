# shellcheck shell=bash disable=SC2034 # RESUME is read by the batch files
# Sourced by the batch files beside it. What they share: the environment, a look at what they need before anything
# starts, a Ray cluster over the nodes of a job, the signal ahead of the time limit, and going on after a requeue.
#
# Reads: SLURM's variables; VENV or IMAGE (and BINDS); LOGS.

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
    echo "SIGTERM before the recipe started: requeued" >&2
    IS_REQUEUED=1
    exit 75
  fi
}
trap on_sigterm TERM

# At every end of the script. SLURM takes a job down as soon as it is requeued, so that comes last.
on_exit() {
  local code=$?
  trap '' TERM
  end_ray "$code"
  if [ -n "$IS_REQUEUED" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
}
trap on_exit EXIT

# Sets RESUME for a run folder: --resume if it has a checkpoint. A run that ended before its first one moves aside.
RESUME=()
find_resume() { # RUN_DIR
  if [ -e "$1/checkpoints/latest_checkpointed_iteration.txt" ]; then
    RESUME=(--resume)
  elif [ -e "$1/config.yaml" ]; then
    mv "$1" "${1%/}.before-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
  fi
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
    echo "requeued: it goes on from its last checkpoint" >&2
    IS_REQUEUED=1
  fi
  return "$code"
}
