"""The argument lists of slime's two recipes for Qwen3-4B, as they stand after its entry point, are our recipes' too."""

from dataclasses import replace
from pathlib import Path

import pytest

from recipes.arguments import UsageError, parse_arguments
from recipes.arguments.flags_slime import ALWAYS_IN_GRPO, ALWAYS_IN_SFT
from recipes.grpo.config import read_job as read_grpo
from recipes.model_folder import precision_note
from recipes.own_configs import GRPO, SFT
from recipes.sft.config import read_job as read_sft
from rl_train.megatron.checkpoint_folder import TRACKER

MODEL_ARGS = """
    --swiglu --num-layers 36 --hidden-size 2560 --ffn-hidden-size 9728 --num-attention-heads 32
    --group-query-attention --num-query-groups 8 --use-rotary-position-embeddings --disable-bias-linear
    --normalization RMSNorm --norm-epsilon 1e-6 --rotary-base 1000000 --vocab-size 151936 --kv-channels 128
    --qk-layernorm
"""
_PARALLEL = """
    --sequence-parallel --pipeline-model-parallel-size 1 --context-parallel-size 1 --expert-model-parallel-size 1
    --expert-tensor-parallel-size 1 --recompute-granularity full --recompute-method uniform --recompute-num-layers 1
    --use-dynamic-batch-size --max-tokens-per-gpu 9216
"""
_MISC = """
    --attention-dropout 0.0 --hidden-dropout 0.0 --accumulate-allreduce-grads-in-fp32 --attention-softmax-in-fp32
    --attention-backend flash
"""
SFT_LIST = f"""
    --actor-num-nodes 1 --actor-num-gpus-per-node 8
    {MODEL_ARGS}
    --hf-checkpoint MODEL --ref-load TORCH_DIST --load SLIME --save SLIME --save-interval 1000
    --rollout-function-path slime.rollout.sft_rollout.generate_rollout --prompt-data DATA --input-key messages
    --rollout-shuffle --num-epoch 3 --rollout-batch-size 128 --global-batch-size 128 --loss-type sft_loss
    --calculate-per-token-loss --disable-compute-advantages-and-returns --debug-train-only
    --optimizer adam --lr 1e-5 --lr-decay-style cosine --min-lr 1e-6 --lr-warmup-fraction 0.1 --weight-decay 0.1
    --adam-beta1 0.9 --adam-beta2 0.95
    --tensor-model-parallel-size 1 {_PARALLEL} {_MISC}
"""
GRPO_LIST = f"""
    --actor-num-nodes 1 --actor-num-gpus-per-node 8 --colocate
    {MODEL_ARGS}
    --hf-checkpoint MODEL --ref-load TORCH_DIST --load SLIME --save SLIME --save-interval 20
    --prompt-data DATA --input-key prompt --label-key label --apply-chat-template --rollout-shuffle
    --rm-type deepscaler --num-rollout 3000 --rollout-batch-size 32 --n-samples-per-prompt 8
    --rollout-max-response-len 8192 --rollout-temperature 1 --global-batch-size 256 --balance-data
    --optimizer adam --lr 1e-6 --lr-decay-style constant --weight-decay 0.1 --adam-beta1 0.9 --adam-beta2 0.98
    --advantage-estimator grpo --use-kl-loss --kl-loss-coef 0.00 --kl-loss-type low_var_kl --entropy-coef 0.00
    --eps-clip 0.2 --eps-clip-high 0.28
    --tensor-model-parallel-size 2 {_PARALLEL}
    --eval-interval 20 --eval-prompt-data aime EVAL --n-samples-per-eval-prompt 16 --eval-max-response-len 16384
    --eval-top-p 1
    --rollout-num-gpus-per-engine 2 --sglang-mem-fraction-static 0.7 {_MISC}
"""


@pytest.fixture
def paths(qwen3_4b, inputs, tmp_path) -> dict[str, str]:
    """What stands for the paths of the lists. As in slime, the folder of --load and --save is not there yet."""
    (tmp_path / "torch_dist" / "release").mkdir(parents=True)
    (tmp_path / "torch_dist" / TRACKER).write_text("release")
    return {
        "MODEL": str(qwen3_4b),
        "TORCH_DIST": str(tmp_path / "torch_dist"),
        "SLIME": str(tmp_path / "slime"),
        "EVAL": str(inputs.eval_prompts),
    }


def resolved(job) -> dict[str, object]:
    """Everything that a job was told, but for its paths."""
    run = replace(job.run, run_dir=Path(), load=None, save=None, ref_load=None)
    own = {name: getattr(job, name) for name in ("trainer_placement", "batch", "trainer", "megatron_trainer")}
    for name in ("engine_placement", "weight_sync", "rollout", "grading", "algorithm", "engine", "sglang"):
        if hasattr(job, name):
            own[name] = getattr(job, name)
    return {**own, "run": run, "source": job.source._config}


@pytest.mark.slow
def test_the_list_of_supervised_training_resolves_to_our_preset(paths, inputs, tmp_path, parsers):
    paths["DATA"] = str(inputs.conversations)
    words = [paths.get(word, word) for word in SFT_LIST.split()]
    theirs = read_sft(["--bf16", "--run-dir", str(tmp_path / "theirs"), *words], parsers)
    same = ["--hf-checkpoint", paths["MODEL"], "--prompt-data", paths["DATA"], "--run-dir", str(tmp_path / "ours")]
    ours = read_sft(["--preset", "qwen3_4b_openhermes", *same], parsers)
    assert resolved(theirs) == resolved(ours)
    assert theirs.num_steps == ours.num_steps
    assert without_backend(theirs) == without_backend(ours)
    assert theirs.run.first_weights == Path(paths["TORCH_DIST"])
    published = {**theirs.model_config, "torch_dtype": "bfloat16"}
    assert precision_note(published, theirs.megatron) is None
    without = read_sft(["--run-dir", str(tmp_path / "float32"), *words], parsers)
    note = precision_note(published, without.megatron)
    assert note == "training in float32, though config.json says bfloat16: --bf16 computes in bfloat16"


@pytest.mark.slow
def test_the_list_of_grpo_resolves_to_the_values_of_our_preset(paths, inputs, tmp_path, parsers):
    paths["DATA"] = str(inputs.prompts)
    words = [paths.get(word, word) for word in GRPO_LIST.split()]
    # This machine may not have the memory for the offload.
    in_front = ["--bf16", "--generate-timeout-s", "7200", "--no-offload-train"]
    theirs = read_grpo([*in_front, "--run-dir", str(tmp_path / "theirs"), *words], parsers)
    same = ["--hf-checkpoint", paths["MODEL"], "--prompt-data", paths["DATA"], "--run-dir", str(tmp_path / "ours")]
    preset = ["--preset", "qwen3_4b_dapo_math", "--no-offload-train"]
    ours = read_grpo([*preset, *same, "--eval-prompt-data", "aime", paths["EVAL"]], parsers)
    assert resolved(theirs)["sglang"].server_kwargs() == resolved(ours)["sglang"].server_kwargs()
    assert resolved(theirs) == resolved(ours)
    assert theirs.evaluation == ours.evaluation
    assert (theirs.num_rollouts, theirs.num_steps_per_rollout) == (3000, 1)
    assert without_backend(theirs) == without_backend(ours)
    assert theirs.run.first_weights == Path(paths["TORCH_DIST"])


def without_backend(job) -> dict[str, object]:
    """Megatron's values, but for the attention's: slime's lists ask for flash, which the presets leave to us."""
    return {name: value for name, value in job.megatron.values.items() if name != "attention_backend"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--rollout-batch-size 64 --global-batch-size 128",
            "--rollout-batch-size 64: expected --global-batch-size's 128: a step trains on the conversations that it "
            "reads",
        ),
        ("--loss-type policy_loss", "--loss-type policy_loss: expected sft_loss: recipes.sft trains on conversations"),
        ("--debug-train-only yes", "--debug-train-only: it takes no value, got yes"),
        (
            "--rollout-function-path",
            "--rollout-function-path without a value: expected slime.rollout.sft_rollout.generate_rollout: "
            "recipes.sft reads conversations",
        ),
    ],
)
def test_a_word_that_asks_for_something_else_than_what_is_always_so_is_refused(words, message):
    with pytest.raises(UsageError) as error:
        parse_arguments(words.split(), SFT, program="sft", takes_sglang=False, always=ALWAYS_IN_SFT)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("flag", "instead"),
    [
        ("--sglang-router-ip", "--rollout-external-engine-addrs"),
        ("--router-policy", "--rollout-external-engine-addrs"),
        ("--sglang-router-policy", "--rollout-external-engine-addrs"),
        ("--sglang-server-concurrency", "use --sglang-max-running-requests"),
        ("--prefill-num-servers", "both prefill and decode"),
    ],
)
def test_flags_of_slimes_router_and_servers_are_refused_with_what_to_do_instead(flag, instead):
    with pytest.raises(UsageError, match=f"^{flag}: this flag of slime is not taken: .*{instead}"):
        parse_arguments([flag, "1"], GRPO, program="grpo", always=ALWAYS_IN_GRPO)


def test_a_reference_policy_without_effect_is_refused_in_supervised_training(paths, inputs, tmp_path):
    run = ["--run-dir", str(tmp_path / "run"), "--hf-checkpoint", paths["MODEL"], "--num-epoch", "1"]
    data = ["--prompt-data", str(inputs.conversations), "--global-batch-size", "8"]
    with pytest.raises(UsageError, match=r"has no effect in supervised training; give --load"):
        read_sft([*run, *data, "--ref-load", paths["TORCH_DIST"]])
