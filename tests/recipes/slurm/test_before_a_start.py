"""What a batch file finds out before it starts anything: paths, GPUs, and whose the run folder is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.slurm.batch import NODES, ROOT
from tests.recipes.slurm.conftest import TEMPLATES


@pytest.fixture
def call(tmp_path):
    """Calls functions of job.sh as job 7, with the run folder `run`."""

    def call_one(script: str, **settings: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{Path(__file__).parent / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": ",".join(NODES),
            "RUN_DIR": str(tmp_path / "run"),
            **{name: str(value) for name, value in settings.items()},
        }
        command = ["bash", "-euo", "pipefail", "-c", f"source {TEMPLATES}/job.sh; {script}"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return call_one


RESUME = 'find_resume "$RUN_DIR"; echo "${RESUME[*]}"'


def save_checkpoint(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("1")


def test_a_run_that_ended_before_its_first_checkpoint_moves_aside(call, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("# of a run that may have logged nothing yet\n")
    assert call(RESUME).stdout == "\n"
    assert (tmp_path / "run.before-7-0" / "config.yaml").exists()
    run.mkdir()
    (run / "config.yaml").write_text("save-interval: 1\n")
    save_checkpoint(run / "checkpoints")
    assert call(RESUME).stdout == "--resume\n"


def test_checkpoints_that_the_words_put_elsewhere_are_found_by_the_next_start(call, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f'save: "{tmp_path / "elsewhere"}"\nsave-interval: 1\n')
    save_checkpoint(tmp_path / "elsewhere")
    assert call(RESUME).stdout == "--resume\n"


@pytest.mark.parametrize("words", ["--lr 1 --run-dir /other", "--run-dir=/other"])
def test_another_run_folder_among_the_words_is_refused(call, words):
    done = call(f'find_resume "$RUN_DIR" {words}')
    assert done.returncode == 2
    assert "set RUN_DIR instead" in done.stderr


def test_a_run_folder_that_another_job_uses_is_left_to_it(call, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    lock = tmp_path / "run.job"
    lock.write_text("6\n")
    done = call(RESUME, FAKE_SLURM_ALIVE="6")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"RUN_DIR {tmp_path / 'run'}: job 6 is using it; set another, or remove {lock} if that job is gone\n"
    )
    assert (tmp_path / "run" / "config.yaml").exists()
    assert lock.read_text() == "6\n"
    done = call(f'{RESUME}; cat "$RUN_DIR.job"')  # job 6 is gone
    assert done.stdout == "\n7\n"
    assert not lock.exists()


def test_every_path_that_is_not_there_is_a_line_that_says_what_to_set(call, tmp_path):
    data = tmp_path / "data.jsonl"
    data.touch()
    paths = {"VENV": "/nope", "MODEL": "/no/model", "DATA": f"{data}@[0:10]", "EVAL_DATA": "hub:OWNER/NAME"}
    done = call("check_paths MODEL DATA EVAL_DATA; echo started", **paths)
    assert done.returncode == 2
    what = ("VENV /nope: no bin/python there", "MODEL /no/model: no such file or folder")
    how = "set it at the top of the batch file or in the environment of sbatch"
    assert done.stderr.splitlines() == [f"{one}: {how}" for one in what]
    assert call("check_paths DATA", **(paths | {"VENV": sys.prefix})).returncode == 0
    done = call("check_paths", IMAGE="/no/image.sif")
    assert done.stderr.startswith("IMAGE /no/image.sif: no such file: set it")


@pytest.mark.parametrize("name", ["run_qwen3_4b_grpo", "run_qwen3_4b_sft", "convert"])
def test_a_template_submitted_from_elsewhere_says_what_to_set(name, tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SLURM_SUBMIT_DIR": str(tmp_path)}
    command = ["bash", str(TEMPLATES / f"{name}.slurm")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"REPOSITORY {tmp_path}: no recipes/slurm/job.sh there: submit from the repository")
    # From the right folder, its own paths are next.
    done = subprocess.run(
        command, env=environment | {"REPOSITORY": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"MODEL {tmp_path}/models/Qwen3-4B" in done.stderr


def test_a_node_with_too_few_gpus_is_named(call, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/usr/bin/env bash\necho "GPU 0: of a test"\n'
        f'if [ "$SLURMD_NODENAME" = {NODES[0]} ]; then echo "GPU 1: of a test"; fi\n'
    )
    program.chmod(0o755)
    place = 'find_place; echo "${PLACE[*]}"'
    done = call(place, GPUS_PER_NODE="2")
    assert done.returncode == 2
    assert done.stderr == f"node {NODES[1]}: expected 2 GPUs (GPUS_PER_NODE), nvidia-smi -L lists 1\n"
    assert call(place, GPUS_PER_NODE="1").stdout == "--actor-num-nodes 2 --actor-num-gpus-per-node 1\n"
    assert call(place, GPUS_PER_NODE="0").stdout == "--actor-num-nodes 2\n"
    assert "GPUS_PER_NODE a100:4: expected a number" in call(place, GPUS_PER_NODE="a100:4").stderr


@pytest.mark.parametrize(
    ("state", "is_requeued"), [("COMPLETING", False), ("RUNNING", True), ("COMPLETING Reason=TimeLimit", True)]
)
def test_a_job_that_was_stopped_is_requeued_unless_it_is_cancelled(call, tmp_path, state, is_requeued):
    requeued = tmp_path / "requeued"
    done = call("run_recipe bash -c 'exit 75'", FAKE_SLURM_STATE=state, FAKE_SLURM_REQUEUED=requeued)
    assert done.returncode == 75
    assert requeued.exists() is is_requeued
