# shellcheck shell=bash disable=SC2034 # RESUME is read by the batch files
# Sourced by the batch files beside it. What they share: the environment, a Ray cluster over the nodes of a job, the
# signal ahead of the time limit, and going on after a requeue.
#
# Reads: SLURM's variables; VENV or IMAGE (and BINDS); LOGS.

# The environment of every command: a virtual environment, or an Apptainer image where IMAGE names one.
ENVIRONMENT=()
if [ -n "${IMAGE:-}" ]; then
  ENVIRONMENT=(apptainer exec --nv)
  [ -n "${BINDS:-}" ] && ENVIRONMENT+=(--bind "$BINDS")
  ENVIRONMENT+=("$IMAGE")
elif [ -n "${VENV:-}" ]; then
  export PATH="$VENV/bin:$PATH"
fi

address_of() { # NODE -> its IPv4 address
  getent ahostsv4 "$1" | awk 'NR == 1 { print $1 }'
}

# Starts Ray on every node of the job and sets RAY_ADDRESS; a log per node. Not needed on one node, where a recipe starts
# a cluster of its own that nothing outside the node can reach.
start_ray() {
  local nodes node address head_address port deadline common
  mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  # Jobs that share a node do not meet: the port and the folder follow from the job's number, and Ray picks the others.
  port=$((20000 + SLURM_JOB_ID % 20000))
  common=(--disable-usage-stats --min-worker-port=0 --max-worker-port=0 --block)
  # Only who has the token can use the cluster. It travels in the environment of this job's own steps.
  RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
  head_address=$(address_of "${nodes[0]}")
  for node in "${nodes[@]}"; do
    address=$(address_of "$node")
    if [ "$node" = "${nodes[0]}" ]; then
      set -- --head --port="$port" --include-dashboard=false --temp-dir="/tmp/ray-$SLURM_JOB_ID"
    else
      set -- --address="$head_address:$port"
    fi
    # Without --cpus-per-task a step has one core, whatever the job has.
    srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --nodelist="$node" \
      --output="$LOGS/ray-$SLURM_JOB_ID-$node.log" \
      "${ENVIRONMENT[@]}" ray start "$@" --node-ip-address="$address" "${common[@]}" &
    deadline=$((SECONDS + 120))
    until (exec 3<>"/dev/tcp/$head_address/$port") 2>/dev/null; do
      if [ "$SECONDS" -gt "$deadline" ]; then
        echo "Ray's head did not start within 120 s: see $LOGS/ray-$SLURM_JOB_ID-${nodes[0]}.log" >&2
        return 1
      fi
      sleep 1
    done
  done
  export RAY_ADDRESS="$head_address:$port"
}

# Sets RESUME for a run folder: --resume if it has a checkpoint. A run that ended before its first one moves aside.
RESUME=()
find_resume() { # RUN_DIR
  if [ -e "$1/checkpoints/latest_checkpointed_iteration.txt" ]; then
    RESUME=(--resume)
  elif [ -e "$1/config.yaml" ]; then
    mv "$1" "${1%/}.before-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
  fi
}

# Runs a recipe and passes SIGTERM on, which SLURM sends ahead of the time limit (#SBATCH --signal): the recipe saves
# after the step it is in and ends with code 75, and the job goes back into the queue to go on from there.
run_recipe() { # COMMAND ...
  local code=127 last recipe='' is_cut=1
  trap 'is_cut=1; echo "SIGTERM: saving after this step" >&2; [ -n "$recipe" ] && kill -TERM "$recipe" 2>/dev/null' TERM
  "${ENVIRONMENT[@]}" "$@" &
  recipe=$!
  while [ -n "$is_cut" ]; do # by the signal; a recipe that ended meanwhile still has its code, once
    is_cut='' last=0
    wait "$recipe" || last=$?
    [ "$last" -eq 127 ] || code=$last
  done
  trap - TERM
  if [ "$code" -eq 75 ]; then
    echo "requeued: it goes on from its last checkpoint" >&2
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return "$code"
}
