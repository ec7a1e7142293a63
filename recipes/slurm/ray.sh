# shellcheck shell=bash
# Sourced by job.sh: a Ray cluster over the nodes of a job of several.
#
# Reads: SLURM's variables; ENVIRONMENT of job.sh; LOGS; RAY_JOIN_S.

# Seconds within which every node has to have joined; loading Ray from a slow file system on many nodes takes some.
RAY_JOIN_S="${RAY_JOIN_S:-300}"

RAY_NODES=()     # their names,
RAY_ADDRESSES=() # addresses,
RAY_STEPS=()     # and the processes that wait for `ray start` on them
RAY_FOLDER="/tmp/ray-${SLURM_JOB_ID:-}"

address_of() { # NODE -> its IPv4 address
  getent ahostsv4 "$1" | awk 'NR == 1 { print $1 }'
}

listens() { # ADDRESS PORT
  (exec 3<> "/dev/tcp/$1/$2") 2> /dev/null
}

log_of() { # INDEX of a node
  echo "$LOGS/ray-$SLURM_JOB_ID-${RAY_NODES[$1]}.log"
}

# Starts Ray on every node of the job and sets RAY_ADDRESS; a log per node. Not needed on one node, where a recipe starts
# a cluster of its own that nothing outside the node can reach. Fails, and says of which node, if one does not join.
start_ray() {
  local index address port deadline
  mapfile -t RAY_NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  for index in "${!RAY_NODES[@]}"; do
    RAY_ADDRESSES[index]=$(address_of "${RAY_NODES[index]}")
    if [ -z "${RAY_ADDRESSES[index]}" ]; then
      echo "node ${RAY_NODES[index]}: expected an IPv4 address of that name, found none" >&2
      return 1
    fi
  done
  # Only who has the token can use the cluster. It travels in the environment of this job's own steps.
  RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
  # Jobs that share a node do not meet: two ports follow from the job's number, below those that Linux gives to others,
  # and Ray picks the rest.
  port=$((20000 + SLURM_JOB_ID % 6000 * 2))
  address=${RAY_ADDRESSES[0]}
  while listens "$address" "$port" || listens "$address" $((port + 1)); do
    echo "port $port or $((port + 1)) of ${RAY_NODES[0]} is in use: trying the next two for Ray's head" >&2
    port=$((port + 2))
  done
  export RAY_ADDRESS="$address:$port"
  start_step 0 --head --port="$port" --ray-client-server-port=$((port + 1)) --include-dashboard=false --no-monitor
  deadline=$((SECONDS + RAY_JOIN_S))
  until listens "$address" "$port"; do
    check_steps || return 1
    if [ "$SECONDS" -ge "$deadline" ]; then
      echo "Ray's head on node ${RAY_NODES[0]} did not start within $RAY_JOIN_S s (RAY_JOIN_S): see $(log_of 0)" >&2
      return 1
    fi
    sleep 1
  done
  for index in "${!RAY_NODES[@]}"; do
    if [ "$index" -gt 0 ]; then start_step "$index" --address="$RAY_ADDRESS"; fi
  done
  wait_for_nodes
}

start_step() { # INDEX of a node, WORDS of ray start
  local index=$1
  shift
  # Without --cpus-per-task a step has one core, whatever the job has.
  srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --nodelist="${RAY_NODES[index]}" \
    --output="$(log_of "$index")" \
    "${ENVIRONMENT[@]}" ray start "$@" --node-ip-address="${RAY_ADDRESSES[index]}" --disable-usage-stats \
    --temp-dir="$RAY_FOLDER" --min-worker-port=0 --max-worker-port=0 --block < /dev/null &
  RAY_STEPS[index]=$!
}

# Fails if Ray has ended on a node, and says on which.
check_steps() {
  local index failed=0
  for index in "${!RAY_STEPS[@]}"; do
    if ! kill -0 "${RAY_STEPS[index]}" 2> /dev/null; then
      echo "Ray ended on node ${RAY_NODES[index]} before the cluster was complete: see $(log_of "$index")" >&2
      failed=1
    fi
  done
  return "$failed"
}

# Asks the cluster itself: a port that answers says nothing of the nodes.
wait_for_nodes() {
  local joined="$LOGS/ray-$SLURM_JOB_ID.joined" look index missing=0
  "${ENVIRONMENT[@]}" python -m recipes.cluster_nodes "$RAY_ADDRESS" "${#RAY_NODES[@]}" "$RAY_JOIN_S" \
    > "$joined" 2> "$joined.err" &
  look=$!
  disown "$look" # whose end by SIGALRM bash would report
  while kill -0 "$look" 2> /dev/null; do
    if ! check_steps; then
      kill -KILL "$look" 2> /dev/null || true
      rm -f "$joined" "$joined.err"
      return 1
    fi
    sleep 1
  done
  for index in "${!RAY_NODES[@]}"; do
    if ! grep -qxF "${RAY_ADDRESSES[index]}" "$joined"; then
      echo "node ${RAY_NODES[index]} (${RAY_ADDRESSES[index]}) has not joined Ray's head at $RAY_ADDRESS within" \
        "$RAY_JOIN_S s (RAY_JOIN_S): see $(log_of "$index")" >&2
      missing=1
    fi
  done
  if [ "$missing" -ne 0 ]; then tail -n 1 "$joined.err" >&2; fi
  rm -f "$joined" "$joined.err"
  return "$missing"
}

# Ends what start_ray started. Ray's own files go with it, but after a failure, when they say why.
end_ray() { # the script's exit CODE
  local index deadline removals=()
  if [ "${#RAY_STEPS[@]}" -eq 0 ]; then return 0; fi
  kill -TERM "${RAY_STEPS[@]}" 2> /dev/null || true
  deadline=$((SECONDS + 40)) # Ray itself takes up to 30 s
  while kill -0 "${RAY_STEPS[@]}" 2> /dev/null; do
    if [ "$SECONDS" -ge "$deadline" ]; then kill -KILL "${RAY_STEPS[@]}" 2> /dev/null || true; fi
    sleep 0.2
  done
  if [ "$1" -ne 0 ] && [ "$1" -ne 75 ]; then
    echo "files of the failed job's Ray: $RAY_FOLDER on each of ${RAY_NODES[*]}" >&2
    return 0
  fi
  for index in "${!RAY_NODES[@]}"; do # a node that is gone must not keep the job
    timeout --signal=KILL 30 srun --overlap --nodes=1 --ntasks=1 --nodelist="${RAY_NODES[index]}" rm -rf "$RAY_FOLDER" &
    removals+=($!)
  done
  wait "${removals[@]}" || true
}
