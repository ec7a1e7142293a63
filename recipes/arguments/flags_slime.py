"""slime's own flags that are no flags here: what always is, and what is refused with what to do instead.

A recipe's own flags come first, so a name in here that a recipe has is that recipe's.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Always(NamedTuple):
    """What a flag asks for that is always so."""

    reason: str
    values: tuple[str, ...] = ()
    """The words that say it; none where the flag stands alone."""
    same_as: str | None = None
    """The flag whose value is the only one that it may have."""


ALWAYS: Mapping[str, Always] = {
    "--balance-data": Always("tokens are always balanced over the data-parallel ranks"),
    "--train-backend": Always("the trainer is Megatron", ("megatron",)),
    "--use-dynamic-batch-size": Always("micro-batches are always packed up to --max-tokens-per-gpu"),
}
"""In both recipes."""

ALWAYS_IN_GRPO: Mapping[str, Always] = {
    **ALWAYS,
    "--loss-type": Always("recipes.grpo trains on rewards", ("policy_loss",)),
    "--rollout-function-path": Always(
        "the recipe's engines generate", ("slime.rollout.sglang_rollout.generate_rollout",)
    ),
}

ALWAYS_IN_SFT: Mapping[str, Always] = {
    **ALWAYS,
    "--calculate-per-token-loss": Always("the loss is the mean over the trained tokens of a step"),
    "--debug-train-only": Always("recipes.sft starts no engine"),
    "--disable-compute-advantages-and-returns": Always("conversations have no rewards"),
    "--loss-type": Always("recipes.sft trains on conversations", ("sft_loss",)),
    "--rollout-batch-size": Always("a step trains on the conversations that it reads", same_as="--global-batch-size"),
    "--rollout-function-path": Always(
        "recipes.sft reads conversations", ("slime.rollout.sft_rollout.generate_rollout",)
    ),
}

_BY_REASON: tuple[tuple[str, str], ...] = (
    (
        "there are no hooks by dotted name: write a recipe over the packages",
        """
        buffer-filter-path custom-advantage-function-path custom-convert-samples-to-train-data-path
        custom-eval-rollout-log-function-path custom-generate-function-path custom-loss-function-path
        custom-megatron-before-log-prob-hook-path custom-megatron-before-train-step-hook-path
        custom-megatron-init-path custom-model-provider-path custom-pg-loss-reducer-function-path
        custom-reward-post-process-path custom-rollout-log-function-path custom-tis-function-path
        custom-update-weight-post-write-path data-source-path eval-function-path rollout-all-samples-process-path
        rollout-data-postprocess-path rollout-function-path rollout-sample-filter-path rollout-sample-hook-path
        """,
    ),
    ("use --dynamic-sampling-filter reward_spread", "dynamic-sampling-filter-path"),
    ("use --config FILE", "custom-config-path megatron-config-path"),
    ("use --eval-prompt-data and --eval-settings", "eval-config"),
    (
        "the recipe says it: recipes.sft trains on conversations, recipes.grpo on rewards",
        "debug-rollout-only debug-train-only disable-compute-advantages-and-returns loss-type",
    ),
    (
        "the mask follows from the model's chat template and covers what the assistant wrote",
        "loss-mask-type multimodal-keys",
    ),
    (
        "the run's folder holds metrics.jsonl and GRPO's samples.jsonl; `python -m recipes.report` makes a page of it",
        """
        disable-wandb-random-suffix dump-details load-debug-rollout-data load-debug-rollout-data-subsample
        load-forge-rollout-data log-correct-samples log-multi-turn log-passrate log-reward-category
        memory-recorder memory-snapshot-dir memory-snapshot-num-steps profile-target save-debug-rollout-data
        save-debug-train-data tb-experiment-name tb-project-name use-tensorboard use-wandb wandb-always-use-train-step
        wandb-dir wandb-group wandb-host wandb-key wandb-mode wandb-run-id wandb-team
        """,
    ),
    ("use --colocate, which turns on --offload-train and --offload-rollout", "offload"),
    (
        "the GPUs are those of --actor-num-gpus-per-node and --rollout-num-gpus: see --colocate",
        "num-gpus-per-node release-train",
    ),
    (
        "weights go from the trainer's memory to the engines after every step",
        """
        keep-old-actor update-weights-interval
        """,
    ),
    (
        "each engine keeps what it needs for deltas, and a version's files go when no engine needs them",
        """
        update-weight-delta-checksum update-weight-delta-encoding update-weight-disk-keep-files
        update-weight-local-checkpoint-dir
        """,
    ),
    (
        "every call has a deadline: use the --*-timeout-s flags",
        """
        rollout-health-check-first-wait rollout-health-check-interval rollout-health-check-timeout
        use-fault-tolerance
        """,
    ),
    (
        "the position in the data is part of the checkpoint: use --resume",
        "disable-rollout-global-dataset start-rollout-id",
    ),
    ("use --global-batch-size", "num-steps-per-rollout"),
    ("supervised training has no rewards", "custom-rm-path rm-url"),
    (
        "supervised training has no engines to publish to",
        """
        check-weight-update-equal update-weight-buffer-size update-weight-disk-dir update-weight-mode
        update-weight-transport
        """,
    ),
    ("use --rollout-max-prompt-len and --rollout-max-response-len", "rollout-max-context-len"),
    ("use --eval-max-response-len", "eval-max-context-len eval-max-prompt-len eval-min-new-tokens"),
    ("evaluation reads tools as --tool-key says", "eval-tool-key"),
    ("micro-batches are packed to --max-tokens-per-gpu", "data-pad-size-multiplier log-probs-max-tokens-per-gpu"),
    ("a reward is one number: the grader is chosen by --rm-type", "eval-reward-key group-rm reward-key"),
    (
        "samples come from the recipe's own engines",
        """
        fetch-trajectory-retry-times http-proxy min-batch-collection-ratio rollout-buffer-url rollout-data-transport
        rollout-task-type use-distributed-post
        """,
    ),
    (
        "a rollout finishes all its samples",
        "mask-offpolicy-in-partial-rollout partial-rollout",
    ),
    ("the divergence is part of the loss: use --use-kl-loss and --kl-loss-coef", "kl-coef"),
    ("a critic is not offered: see --advantage-estimator", "lambd num-critic-only-steps value-clip"),
    ("the reference policy stays as it is loaded", "ref-ckpt-step ref-update-interval"),
    ("the step's metrics always hold it", "get-mismatch-metrics use-rollout-entropy"),
    ("the optimizer's state is kept", "reset-optimizer-states use-stateless-adam"),
    ("all parameters are trained", "freeze-indexer freeze-params-name-list only-train-params-name-list"),
    ("distillation is not offered", "opd-kl-coef opd-teacher-ckpt-step opd-teacher-load opd-type use-opd"),
    ("mixture-of-experts models are not offered", "use-rollout-routing-replay use-routing-replay"),
    (
        "models with other than plain attention layers are not offered",
        """
        allgather-cp enable-mtp-training megatron-deepgemm-forward-layers megatron-deepgemm-forward-modules
        megatron-deepgemm-moe-forward-layers megatron-deepgemm-moe-forward-modules qwen-gdn-backend
        """,
    ),
    ("log-probabilities are always computed in chunks: see --log-probs-chunk-size", "recompute-loss-function"),
    ("set the environment of the recipe: its processes inherit it", "train-env-vars"),
    ("the architecture is read from config.json", "model-name"),
    ("the last checkpoint is also written as a Hugging Face model, in the run's folder", "save-hf"),
    (
        "engines take requests directly, without a router before them: use --rollout-num-gpus, or "
        "--rollout-external-engine-addrs for engines that run elsewhere",
        "sglang-router-ip sglang-router-port sglang-router-request-timeout-secs",
    ),
    ("use --sglang-max-running-requests, for each engine", "sglang-server-concurrency"),
    ("an engine does both prefill and decode", "prefill-num-servers"),
    (
        "it belongs to slime's own tests",
        """
        ci-disable-kl-checker ci-load-grad-norm ci-save-grad-norm ci-test
        ci-train-rollout-logprob-abs-diff-threshold
        """,
    ),
)

REFUSED_OF_SLIME: dict[str, str] = {f"--{name}": reason for reason, names in _BY_REASON for name in names.split()}
"""Flag -> why it is refused and what to do instead."""

REFUSED_PREFIXES_OF_SLIME: Mapping[str, str] = dict.fromkeys(
    ("--router-", "--sglang-router-"), REFUSED_OF_SLIME["--sglang-router-ip"]
)
"""Begin of a flag -> the same of all flags that begin so: slime takes those of SGLang's router."""

MEGATRONS_IN_SLIME: tuple[str, ...] = (
    "--async-save",
    "--clip-grad",
    "--distributed-backend",
    "--distributed-timeout-minutes",
    "--lr",
    "--micro-batch-size",
    "--mtp-loss-scaling-factor",
    "--mtp-num-layers",
    "--no-save-optim",
    "--padded-vocab-size",
    "--record-memory-history",
    "--seed",
    "--wandb-project",
)
"""Flags of Megatron that slime defines anew; here they are Megatron's."""

_SAME = """
    actor-num-gpus-per-node actor-num-nodes advantage-estimator apply-chat-template apply-chat-template-kwargs
    balance-by-flops calculate-per-token-loss check-weight-update-equal colocate
    disable-grpo-std-normalization disable-rewards-normalization entropy-coef eps-clip eps-clip-c eps-clip-high
    eval-input-key eval-interval eval-label-key eval-max-response-len eval-prompt-data eval-temperature eval-top-k
    eval-top-p gamma global-batch-size hf-checkpoint input-key kl-loss-coef kl-loss-type label-key load
    log-probs-chunk-size max-tokens-per-gpu metadata-key n-samples-per-eval-prompt n-samples-per-prompt
    normalize-advantages num-epoch num-rollout offload-rollout offload-train opsm-delta over-sampling-batch-size
    prompt-data ref-load rollout-batch-size rollout-external-engine-addrs
    rollout-max-prompt-len rollout-max-response-len
    rollout-num-gpus rollout-num-gpus-per-engine rollout-seed rollout-shuffle rollout-skip-special-tokens
    rollout-stop rollout-stop-token-ids rollout-temperature rollout-top-k rollout-top-p save save-interval
    skip-eval-before-train tis-clip tis-clip-low tool-key update-weight-buffer-size update-weight-disk-dir
    update-weight-mode update-weight-transport use-kl-loss use-opsm use-rollout-logprobs use-tis use-unbiased-kl
"""

SAME_IN_SLIME: tuple[str, ...] = tuple(f"--{name}" for name in _SAME.split())
"""Flags of our own that slime has under the same name, for the same."""


class OtherContract(NamedTuple):
    """What a flag of the same name is for in slime, and here."""

    there: str
    here: str


OTHER_CONTRACTS_OF_SLIME: Mapping[str, OtherContract] = {
    "--custom-rm-path": OtherContract(
        "`async def grade(args, sample, **kwargs)`, which gives the reward; it wins over `--rm-type`",
        "`def grade(response, label, metadata)`, with `async` or without, in a process of its own; it gives a number, "
        "or a number and a reason. `--rm-type custom`, or a sum with `custom`, asks for it",
    ),
    "--rm-type": OtherContract(
        "`remote_rm`; `boxed_` before a name; `f1`, `gpqa`, `ifbench` and others",
        "`remote`; graders of answers find the box themselves; `multiple_choice` for letters, `custom` for others; "
        "sums of several",
    ),
    "--rm-url": OtherContract(
        "POST of `prompt`, `response`, `label`; the answer is the reward",
        "POST of `response`, `label`, `metadata`, `num_tokens`; the answer is a number, or an object of `value` and "
        "`reason`",
    ),
}
"""Flags of our own that slime has under the same name, for the same end, but which ask for something else."""

OTHER_DEFAULTS_OF_SLIME: Mapping[str, str] = {
    "--actor-num-gpus-per-node": "8",
    "--global-batch-size": "follows from --num-steps-per-rollout",
    "--input-key": "input",
    "--log-probs-chunk-size": "all tokens at once",
    "--max-tokens-per-gpu": "none",
    "--n-samples-per-prompt": "1",
    "--rollout-max-response-len": "none",
    "--update-weight-buffer-size": "536870912",
    "--update-weight-transport": "nccl",
}
"""Of these, the ones whose default is another in slime -> that default."""
