"""The batch files, run for real on the tiny model: one node and two, warned of the time limit and requeued once."""

from pathlib import Path

import pytest

from tests.recipes.short_runs import GRPO_FLAGS, NUM_GRPO_STEPS, NUM_SFT_STEPS, SFT_FLAGS, records, weights
from tests.recipes.slurm.batch import NODES


@pytest.mark.slow
def test_sft_on_one_node_is_saved_requeued_and_ends_as_in_one_go(submit, easy_inputs, policy, tmp_path):
    job = submit(
        "run_qwen3_4b_sft.slurm",
        ("--actor-num-gpus-per-node", 2, "--num-rollout", NUM_SFT_STEPS, *SFT_FLAGS),
        PRESET="tiny_sft",
        GPUS_PER_NODE="0",
        MODEL=easy_inputs.model,
        DATA=easy_inputs.conversations,
    )
    job.wait_for("sft 2 ")
    job.warn_of_time_limit()
    assert job.end() == 0, job.output
    assert job.num_starts == 2
    assert "saving after this step" in job.output
    assert job.output.count("sft 1 ") == 1, "it began anew"
    assert [line["step"] for line in records(tmp_path / "run")] == [*range(1, NUM_SFT_STEPS + 1)]
    assert records(tmp_path / "run") == records(policy)
    assert weights(tmp_path / "run") == weights(policy)


@pytest.mark.slow
def test_grpo_on_two_nodes_is_saved_requeued_and_ends_as_in_one_go(submit, easy_inputs, policy, straight, tmp_path):
    job = submit(
        "run_qwen3_4b_grpo.slurm",
        ("--actor-num-gpus-per-node", 1, *GRPO_FLAGS),
        nodes=NODES,
        PRESET="tiny_math",
        GPUS_PER_NODE="0",
        MODEL=policy / "model",
        DATA=easy_inputs.prompts,
        EVAL_DATA=easy_inputs.eval_prompts,
    )
    job.wait_for("grpo 2 ")
    job.warn_of_time_limit()
    job.add_words("--colocate")  # at first the engine has a place of its own; then there is one on each node
    assert job.end() == 0, job.output
    assert job.num_starts == 2
    assert "\ncolocate: true\n" in (tmp_path / "run" / "config.yaml").read_text()
    steps = [line["step"] for line in records(tmp_path / "run") if line["phase"] == "grpo"]
    assert steps == [*range(1, NUM_GRPO_STEPS + 1)]
    logs = {file.name.rpartition("-")[2] for file in (tmp_path / "logs").iterdir()}
    assert logs == {f"{node}.log" for node in NODES}
    assert not Path(f"/tmp/ray-{job.number}").exists()
    assert not (tmp_path / "run.job").exists()
    assert weights(tmp_path / "run") == weights(straight.folder)


@pytest.mark.slow
def test_convert_writes_a_checkpoint_with_a_part_from_each_rank(submit, inputs, tmp_path):
    job = submit("convert.slurm", MODEL=inputs.model, OUTPUT=tmp_path / "converted", PIPELINE_PARALLEL="1")
    assert job.end() == 0, job.output
    assert (tmp_path / "converted" / "latest_checkpointed_iteration.txt").read_text().strip() == "release"
    parts = {file.name[:4] for file in (tmp_path / "converted" / "release").glob("*.distcp")}
    assert parts == {"__0_", "__1_"}
