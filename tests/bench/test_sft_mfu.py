import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.model_configs import MODEL_CONFIGS
from bench.profiles import summary
from bench.sft_mfu import multiplied_parameters, step_flops

ROOT = Path(__file__).parent.parent.parent


def test_parameters_of_qwen3_4b_are_those_of_its_checkpoint() -> None:
    assert multiplied_parameters(MODEL_CONFIGS["qwen3-4b"]) == 4_022_468_096


def test_flops_are_six_for_each_parameter_and_token_and_twelve_for_each_pair_in_attention() -> None:
    config = {"num_hidden_layers": 2, "num_attention_heads": 3, "head_dim": 5}
    assert step_flops(config, 7, [10, 4]) == 6 * 7 * 14 + 12 * 2 * 3 * 5 * (100 + 16) / 2


def test_a_profile_is_summed_by_kernel_and_group_with_the_gaps_between() -> None:
    spans = [
        ("nvjet_gemm", 1000.0, 3000.0),
        ("flash_fwd_kernel", 2000.0, 4000.0),  # beside the first
        ("nvjet_gemm", 6000.0, 7000.0),
        ("vectorized_elementwise_kernel", 7000.0, 7500.0),
    ]
    result = summary(spans)
    assert result["busy_ms"] == 4.5
    assert result["idle_ms"] == 2.0
    assert result["gaps"] == [{"ms": 2.0, "between": ["flash_fwd_kernel", "nvjet_gemm"]}]
    assert result["groups_ms"] == {"matrix products": 3.0, "attention": 2.0, "element-wise and other": 0.5}
    assert result["kernels"][0] == {"ms": 3.0, "calls": 2, "name": "nvjet_gemm"}


@pytest.mark.bench
@pytest.mark.slow
def test_a_small_model_is_measured_on_this_machine_and_a_failing_setting_loses_no_other(tmp_path: Path) -> None:
    model = tmp_path / "model"
    subprocess.run(
        [sys.executable, "-m", "bench.random_checkpoint", "--config", "tiny", "--out", model],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    command = [sys.executable, "-m", "bench.sft_mfu", "--model", model, "--lengths", "32x2,16", "--steps", "1"]
    command += ["--warmup", "1", "--setting", "tokens=64,chunk=16", "--setting", "chunk=0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = json.loads(done.stdout)
    assert {one["name"] for one in printed["results"]} == {"sft_mfu", "sft_tokens_per_s", "sft_peak_gib"}
    good, bad = printed["details"]["settings"]
    assert good["num_microbatches"] == 2
    assert good["tokens_per_s"] == pytest.approx(80 / good["seconds"])
    assert good["tflops_per_step"] == pytest.approx(
        step_flops(MODEL_CONFIGS["tiny"], multiplied_parameters(MODEL_CONFIGS["tiny"]), [32, 32, 16]) / 1e12
    )
    assert "log_probs_chunk_size 0: expected a positive number" in bad["output"]
