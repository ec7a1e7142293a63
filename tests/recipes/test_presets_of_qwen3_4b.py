"""The presets of Qwen3-4B carry the values of the two recipes for eight GPUs, but for what fewer of them force."""

import pytest
import yaml

from recipes.arguments.parse import PRESETS
from recipes.grpo.config import read_job as read_grpo
from recipes.sft.config import read_job as read_sft

# Settings of the computation that slime's scripts give for both.
_BOTH = {
    "bf16": True,
    "attention-dropout": 0,
    "hidden-dropout": 0,
    "accumulate-allreduce-grads-in-fp32": True,
    "attention-softmax-in-fp32": True,
    "pipeline-model-parallel-size": 1,
    "context-parallel-size": 1,
    "recompute-granularity": "full",
    "recompute-method": "uniform",
    "recompute-num-layers": 1,
    "use-dynamic-batch-size": True,
    "max-tokens-per-gpu": 9216,
    "actor-num-gpus-per-node": 8,
    "rollout-shuffle": True,
    "optimizer": "adam",
    "weight-decay": 0.1,
    "adam-beta1": 0.9,
}
DAPO_MATH = {
    **_BOTH,
    "colocate": True,
    "save-interval": 20,
    "input-key": "prompt",
    "label-key": "label",
    "apply-chat-template": True,
    "num-rollout": 3000,
    "rollout-batch-size": 32,
    "n-samples-per-prompt": 8,
    "rollout-max-response-len": 8192,
    "rollout-temperature": 1,
    "global-batch-size": 256,
    "rm-type": "deepscaler",
    "balance-data": True,
    "eval-interval": 20,
    "n-samples-per-eval-prompt": 16,
    "eval-max-response-len": 16384,
    "eval-top-p": 1,
    "generate-timeout-s": 7200,  # no flag of slime; 30 prompts x 16 samples x 16,384 tokens in one go
    "tensor-model-parallel-size": 2,
    "sequence-parallel": True,
    "expert-model-parallel-size": 1,
    "advantage-estimator": "grpo",
    "eps-clip": 0.2,
    "eps-clip-high": 0.28,
    "use-kl-loss": True,
    "kl-loss-coef": 0.0,
    "kl-loss-type": "low_var_kl",
    "entropy-coef": 0.0,
    "lr": 1e-6,
    "lr-decay-style": "constant",
    "adam-beta2": 0.98,
    "clip-grad": 1.0,
    "rollout-num-gpus-per-engine": 2,
    "sglang-mem-fraction-static": 0.7,
}
OPENHERMES = {
    **_BOTH,
    "input-key": "messages",
    "num-epoch": 3,
    "global-batch-size": 128,
    "calculate-per-token-loss": True,
    "tensor-model-parallel-size": 1,
    "lr": 1e-5,
    "lr-decay-style": "cosine",
    "min-lr": 1e-6,
    "lr-warmup-fraction": 0.1,
    "adam-beta2": 0.95,
    "save-interval": 1000,
}
# None: the flag is not there.
_ONE_GPU = {
    "actor-num-gpus-per-node": 1,
    "recompute-granularity": None,
    "recompute-method": None,
    "recompute-num-layers": None,
    "recompute-policy": "auto",
}
_ONE_GPU_COLOCATED = {
    **_ONE_GPU,
    "rollout-num-gpus-per-engine": 1,
    "tensor-model-parallel-size": 1,
    "sequence-parallel": None,
}
FORCED = {
    "qwen3_4b_dapo_math": {},
    "qwen3_4b_dapo_math_1xh200": {**_ONE_GPU_COLOCATED, "no-offload-train": True, "sglang-mem-fraction-static": 0.42},
    "qwen3_4b_dapo_math_1xh100": {**_ONE_GPU_COLOCATED, "log-probs-chunk-size": 1024},
    "qwen3_4b_dapo_math_4xa100_40gb": {"actor-num-gpus-per-node": 4},
    "qwen3_4b_openhermes": {},
    "qwen3_4b_openhermes_1xh200": _ONE_GPU,
    "qwen3_4b_openhermes_4xa100_40gb": {
        "actor-num-gpus-per-node": 4,
        "tensor-model-parallel-size": 2,
        "sequence-parallel": True,
    },
}


def value_of(text: object) -> object:
    """YAML takes 1e-6 for text."""
    try:
        return text if isinstance(text, bool) else float(str(text))
    except ValueError:
        return text


@pytest.mark.parametrize("name", FORCED)
def test_a_preset_differs_from_the_recipe_for_eight_gpus_in_what_its_gpus_force_alone(name):
    facts = OPENHERMES if "openhermes" in name else DAPO_MATH
    expected = {flag: value for flag, value in {**facts, **FORCED[name]}.items() if value is not None}
    preset = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    assert {flag: value_of(value) for flag, value in preset.items()} == expected


@pytest.fixture
def words(qwen3_4b, tmp_path):
    def words_of(name, data, *more):
        paths = ["--hf-checkpoint", str(qwen3_4b), "--prompt-data", str(data), "--run-dir", str(tmp_path / name)]
        return ["--preset", name, *paths, *more]

    return words_of


@pytest.mark.slow
def test_the_presets_resolve_to_runs_of_one_gpu(inputs, words, parsers):
    held_out = ["--eval-prompt-data", "aime-2024", str(inputs.eval_prompts)]
    h200 = read_grpo(words("qwen3_4b_dapo_math_1xh200", inputs.prompts, *held_out), parsers)
    assert h200.engine_placement.releases_engines
    assert not h200.engine_placement.moves_optimizer
    # This machine may not have the memory for the offload of the H100's.
    h100 = read_grpo(words("qwen3_4b_dapo_math_1xh100", inputs.prompts, "--no-offload-train"), parsers)
    sft = read_sft(words("qwen3_4b_openhermes_1xh200", inputs.conversations), parsers)
    for job in (h200, h100, sft):
        assert job.trainer_placement.world_size == 1
        values = job.megatron.values
        assert (values["num_layers"], values["hidden_size"], values["padded_vocab_size"]) == (36, 2560, 151936)
        assert values["bf16"] is True
        assert values["recompute_granularity"] is None
    assert h200.engine_placement.num_engines(1) == 1
    assert (h200.num_rollouts, h200.num_steps_per_rollout) == (3000, 1)
    assert h200.sglang.server_kwargs() == {"mem_fraction_static": 0.42}
    assert h100.sglang.server_kwargs() == {"mem_fraction_static": 0.7}


@pytest.mark.slow
def test_the_presets_resolve_to_runs_of_several_gpus(inputs, words, parsers):
    # This machine may not have the memory for the offload.
    grpo = read_grpo(words("qwen3_4b_dapo_math_4xa100_40gb", inputs.prompts, "--no-offload-train"), parsers)
    halves = read_sft(words("qwen3_4b_openhermes_4xa100_40gb", inputs.conversations), parsers)
    whole = read_sft(words("qwen3_4b_openhermes", inputs.conversations), parsers)
    eight = read_grpo(words("qwen3_4b_dapo_math", inputs.prompts, "--no-offload-train"), parsers)
    sizes = {
        (job.trainer_placement.world_size, job.megatron.values["tensor_model_parallel_size"])
        for job in (grpo, halves, whole, eight)
    }
    assert sizes == {(4, 2), (8, 1), (8, 2)}
    assert grpo.engine_placement.num_engines(4) == 2
    assert eight.engine_placement.num_engines(8) == 4
    for job in (grpo, halves, whole, eight):
        values = job.megatron.values
        assert (values["recompute_granularity"], values["recompute_method"]) == ("full", "uniform")
        assert values["sequence_parallel"] is (values["tensor_model_parallel_size"] == 2)
