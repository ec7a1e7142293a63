"""Megatron flags that are refused, each with the reason. Plain names: importing this imports nothing else."""

_BY_REASON: tuple[tuple[str, str], ...] = (
    (
        "it prints Megatron's own help; use --help-megatron",
        """
        help
        """,
    ),
    (
        "the recipe decides what is saved and loaded: use its own --load, --save, --save-interval, --resume",
        """
        async-save ckpt-step exit-on-missing-checkpoint finetune load no-load-optim no-load-rng no-save-optim
        no-save-rng persistent-save-interval pretrained-checkpoint save save-interval save-retain-interval
        """,
    ),
    (
        "the recipe evaluates with the engines: use its own --eval-prompt-data, --eval-interval",
        """
        eval-global-batch-size eval-interval eval-iters eval-micro-batch-size full-validation
        multiple-validation-sets skip-train start-eval-at-iter test-mode validation-set-names
        """,
    ),
    (
        "the recipe counts the steps: use --num-rollout or --num-epoch, and --lr-decay-iters, --lr-warmup-iters",
        """
        lr-decay-samples lr-warmup-samples lr-wsd-decay-samples train-iters train-samples
        """,
    ),
    (
        "the loss is rl-train's own: use the algorithm's flags",
        """
        calculate-per-token-loss cross-entropy-fusion-impl cross-entropy-loss-fusion fp16-lm-cross-entropy
        """,
    ),
    (
        "the process groups are made by rl-train, with the deadlines of its own flags",
        """
        disable-gloo-process-groups distributed-backend distributed-timeout-minutes
        distributed-timeout-seconds-after-init fake-process-group high-priority-stream-groups lazy-mpu-init
        local-rank nccl-communicator-config-path pipeline-model-parallel-comm-backend sharp-enabled-group
        use-sharp use-tp-pp-dp-mapping
        """,
    ),
    (
        "batches are packed to a token budget: use --max-tokens-per-gpu and --global-batch-size",
        """
        decoder-seq-length decrease-batch-size-if-needed encoder-seq-length global-batch-size
        max-seqlen-per-dp-cp-rank micro-batch-size rampup-batch-size seq-length step-batch-size-schedule
        """,
    ),
    (
        "Megatron has retired it",
        """
        batch-size checkpoint-activations ckpt-fully-parallel-save cuda-graph-scope dist-ckpt-format
        enable-cuda-graph external-cuda-graph model-parallel-size moe-layer-recompute no-position-embedding
        no-weight-decay-cond-type onnx-safe use-dist-ckpt warmup yaml-cfg
        """,
    ),
    (
        "the precisions on offer are float32 and, with --bf16, bfloat16 with float32 gradients",
        """
        apply-query-key-layer-scaling disable-bf16-reduced-precision-matmul fp16 fp32-residual-connection
        grad-reduce-in-bf16 hysteresis initial-loss-scale loss-scale loss-scale-window min-loss-scale
        """,
    ),
    (
        "it needs Transformer Engine, which is not used",
        """
        disable-fp8-wgrad first-last-layers-bf16 fp4-format fp4-param-gather fp4-quantizer-factory fp4-recipe
        fp8-amax-compute-algo fp8-amax-history-len fp8-format fp8-interval fp8-margin fp8-output-proj
        fp8-param-gather fp8-quantizer-factory fp8-recipe keep-fp8-transpose-cache kitchen-attention-backend
        moe-router-padding-for-fp8 moe-router-padding-for-quantization no-fp8-wgrad num-layers-at-end-in-bf16
        num-layers-at-start-in-bf16 reuse-grad-buf-for-mxfp8-param-ag te-precision-config-file
        use-kitchen-attention
        """,
    ),
    (
        "training runs without CUDA graphs: packed batches differ in shape",
        """
        cuda-graph-impl cuda-graph-modules cuda-graph-warmup-steps decode-only-cuda-graphs
        delay-offload-until-cuda-graph inference-cuda-graph-all-prefills inference-cuda-graph-max-tokens
        inference-cuda-graph-scope inference-dynamic-batching-cuda-graph-mixed-prefill-count
        inference-dynamic-batching-cuda-graph-sizing-distribution inference-dynamic-batching-num-cuda-graphs
        moe-pad-experts-for-cuda-graph-inference no-rl-persist-cuda-graphs no-rl-training-cuda-graphs
        optimizer-cuda-graph rl-persist-cuda-graphs rl-training-cuda-graphs
        """,
    ),
    (
        "it needs Transformer Engine, which is not used",
        """
        activation-func-clamp-value activation-offload-fraction batch-invariant-mode cpu-offloading-num-layers
        cpu-offloading-retain-pinned-cpu-buffers defer-embedding-wgrad-compute delay-wgrad-compute
        delta-offload-bytes-across-pp-ranks disable-tp-comm-bulk-dgrad disable-tp-comm-bulk-wgrad
        disable-tp-comm-overlap-ag disable-tp-comm-overlap-rs disable-tp-comm-split-ag disable-tp-comm-split-rs
        fine-grained-activation-offloading fine-grained-offloading-max-inflight-offloads flash-attention-version
        fused-residual-rmsnorm glu-linear-offset log-max-attention-logit min-offloaded-tensor-size
        no-tp-comm-bulk-dgrad no-tp-comm-bulk-wgrad no-tp-comm-overlap-ag no-tp-comm-overlap-rs
        no-tp-comm-split-ag no-tp-comm-split-rs offload-modules overlap-dispatch-backward-with-experts-wgrad
        qk-clip qk-clip-alpha qk-clip-threshold softmax-type te-rng-tracker tp-comm-bootstrap-backend
        tp-comm-overlap tp-comm-overlap-cfg tp-comm-overlap-rs-dgrad use-fused-weighted-squared-relu
        use-grouped-gemm-for-dense-mlp use-te-activation-func use-transformer-engine-op-fuser
        wgrad-deferral-limit window-attn-skip-freq window-size
        """,
    ),
    (
        "it belongs to Megatron's own reinforcement-learning loop, which is not run",
        """
        grpo-clamp-eps-lower grpo-clamp-eps-upper grpo-entropy-term-weight grpo-filter-groups-with-same-reward
        grpo-group-size grpo-iterations grpo-kl-beta grpo-prompts-per-step langrl-env-config
        no-rl-inference-logprobs-is-correction no-rl-offload-inference-model-weights-when-idle
        no-rl-partial-rollouts no-rl-skip-bos-token no-rl-use-sequence-packing no-rl-verify-model-weights-swap
        perform-rl-step refit-method rl-consumption-granularity rl-default-temperature rl-default-top-k
        rl-default-top-p rl-generation-lag rl-importance-sampling-truncation-coef
        rl-inference-expert-model-parallel-size rl-inference-expert-tensor-model-parallel-size
        rl-inference-logprobs-is-correction rl-inference-model-unified-memory-level rl-inference-parsers
        rl-inference-pipeline-model-parallel-size rl-inference-tensor-model-parallel-size
        rl-kv-cache-management-mode rl-offload-inference-model-weights-when-idle
        rl-offload-optimizer-during-inference rl-partial-rollouts rl-profile rl-profile-dir rl-prompts-per-eval
        rl-sequence-packing-algo rl-sequence-packing-max-sequences-per-bin rl-skip-bos-token
        rl-submission-granularity rl-use-sequence-packing rl-verify-model-weights-swap
        """,
    ),
    (
        "it belongs to Megatron's inference engine; SGLang generates: use the --sglang- flags",
        """
        bert-embedder-type enable-chunked-prefill flash-decode inference-batch-times-seqlen-threshold
        inference-coordinator-port inference-disable-ep-consensus inference-disable-triton-nvls-kernels
        inference-dynamic-batching inference-dynamic-batching-async-sched-mode
        inference-dynamic-batching-block-size inference-dynamic-batching-buffer-size-gb
        inference-dynamic-batching-logprobs-mode inference-dynamic-batching-mamba-memory-ratio
        inference-dynamic-batching-max-requests inference-dynamic-batching-max-tokens
        inference-dynamic-batching-paused-buffer-size-gb inference-dynamic-batching-prefix-caching
        inference-dynamic-batching-prefix-caching-coordinator-policy
        inference-dynamic-batching-prefix-caching-eviction-policy
        inference-dynamic-batching-prefix-caching-mamba-gb
        inference-dynamic-batching-prefix-caching-routing-alpha inference-dynamic-batching-sampling-backend
        inference-dynamic-batching-track-generated-token-events
        inference-dynamic-batching-track-paused-request-events inference-dynamic-batching-unified-memory-level
        inference-fuse-tp-communication inference-grouped-gemm-backend inference-logging-step-interval
        inference-max-requests inference-max-seq-length inference-moe-disable-fused-quant-kernels
        inference-moe-token-dispatcher-type inference-rng-tracker inference-shards
        inference-text-gen-server-logging inference-use-synchronous-zmq-collectives inference-wandb-logging
        mamba-inference-conv-states-dtype mamba-inference-ssm-states-dtype max-tokens-to-oom
        mlp-chunks-for-prefill mlp-chunks-for-training nccl-all-reduce-for-prefill
        no-inference-disable-ep-consensus no-inference-dynamic-batching-prefix-caching
        no-inference-text-gen-server-logging no-inference-use-synchronous-zmq-collectives
        no-inference-wandb-logging num-speculative-tokens output-bert-embeddings symmetric-ar-type
        use-legacy-static-engine use-same-sampling-seed-across-dp-ranks
        """,
    ),
    (
        "mixture-of-experts models are not offered",
        """
        ep-overlap-early-attn-memory-release expert-tensor-parallel-num-weight-shards
        high-priority-a2a-comm-stream moe-apply-probs-on-input moe-aux-loss-coeff moe-deepep-num-sms
        moe-enable-deepep moe-enable-routing-replay moe-expert-capacity-factor moe-expert-rank-capacity-factor
        moe-ffn-hidden-size moe-flex-dispatcher-backend moe-flex-dispatcher-num-sms moe-grouped-gemm
        moe-hybridep-num-blocks-permute moe-hybridep-num-blocks-unpermute moe-hybridep-num-sms
        moe-hybridep-num-sms-preprocessing moe-hybridep-pad-uneven-dispatch-inputs moe-input-jitter-eps
        moe-latent-size moe-layer-freq moe-mlp-glu-interleave-size moe-ncclep-static-shape moe-ncclep-zero-copy
        moe-pad-expert-input-to-capacity moe-paged-stash moe-paged-stash-buffer-size-factor-cpu
        moe-paged-stash-buffer-size-factor-cuda moe-paged-stash-page-size moe-per-layer-logging
        moe-permute-fusion moe-permute-fusion-into-hybridep moe-router-bias-update-rate moe-router-dtype
        moe-router-enable-expert-bias moe-router-force-biased moe-router-force-load-balancing moe-router-fusion
        moe-router-group-topk moe-router-load-balancing-type moe-router-num-groups moe-router-pre-softmax
        moe-router-quantile-balancing-ema moe-router-score-function moe-router-topk
        moe-router-topk-scaling-factor moe-routing-trace-capture-hidden-states moe-routing-trace-capture-logits
        moe-routing-trace-dump-weights moe-routing-trace-max-training-iters moe-routing-trace-path
        moe-shared-expert-gate moe-shared-expert-glu-interleave-size moe-shared-expert-intermediate-size
        moe-shared-expert-overlap moe-single-grouped-bias moe-single-grouped-weight moe-token-dispatcher-type
        moe-token-drop-policy moe-upcycling-granularity moe-use-upcycling moe-z-loss-coeff num-experts
        overlap-moe-expert-parallel-comm save-tokens-per-expert-interval use-grouped-gemm-for-shared-expert
        """,
    ),
    (
        "models with other than plain attention layers are not offered",
        """
        attention-output-gate cache-mla-latents disable-dsa-indexer-rotate-activation
        disable-dsa-indexer-scoring-relu disable-mamba-mem-eff-path dsa-indexer-head-dim
        dsa-indexer-k-norm-epsilon dsa-indexer-k-norm-fp32 dsa-indexer-loss-coeff dsa-indexer-n-heads
        dsa-indexer-rope-interleaved dsa-indexer-skip-topk-offset dsa-indexer-topk dsa-indexer-topk-freq
        dsa-indexer-use-sparse-loss dsa-kernel-backend enable-experimental experimental-attention-variant
        heterogeneous-layers-config-encoded-json heterogeneous-layers-config-path hybrid-layer-pattern
        hybrid-override-pattern is-hybrid-model kv-lora-rank linear-attention-freq linear-conv-kernel-dim
        linear-key-head-dim linear-num-key-heads linear-num-value-heads linear-value-head-dim mamba-head-dim
        mamba-num-groups mamba-num-heads mamba-state-dim mamba-training-ssm-states-dtype mla-down-proj-fusion
        mscale mscale-all-dim mtp-detach-heads mtp-hybrid-override-pattern mtp-loss-scaling-factor
        mtp-num-layers mtp-standalone mtp-use-repeated-layer multi-latent-attention
        no-dsa-indexer-rotate-activation no-dsa-indexer-scoring-relu q-lora-rank qk-head-dim qk-pos-emb-head-dim
        rotary-scaling-factor spec v-head-dim
        """,
    ),
    (
        "config.json names a model that has no such part",
        """
        apply-layernorm-1p apply-residual-connection-post-layernorm bert-no-binary-head decoder-num-layers
        encoder-num-layers mrope-section no-bias-gelu-fusion no-rope-freq no-yarn-correction-range-round-to-int
        openai-gelu qk-l2-norm quick-geglu relative-attention-max-distance relative-attention-num-buckets
        rope-scaling-factor rope-type rotary-interleaved rotary-seq-len-interpolation-factor squared-relu
        use-rope-scaling yarn-beta-fast yarn-beta-slow yarn-correction-range-round-to-int
        yarn-original-max-position-embeddings
        """,
    ),
    (
        "weights come from a checkpoint, not from an initialisation",
        """
        data-parallel-random-init embedding-init-method-std init-method-std init-method-xavier-uniform
        init-model-with-meta-device mup-attn-scale-power mup-base-head-dim mup-base-hidden-size
        mup-embedding-mult mup-output-mult mup-width-mult no-initialization use-cpu-initialization use-mup
        """,
    ),
    (
        "context parallelism is not offered",
        """
        cp-comm-type hierarchical-context-parallel-sizes hybrid-context-parallel
        """,
    ),
    (
        "parameters are sharded by tensor parallelism and the distributed optimizer only",
        """
        tensor-parallel-num-weight-shards
        """,
    ),
    (
        "layers are split evenly over the pipeline stages and run one batch after the other",
        """
        account-for-embedding-in-pipeline-split account-for-loss-in-pipeline-split
        decoder-first-pipeline-num-layers decoder-last-pipeline-num-layers
        disable-clone-scatter-output-in-embedding microbatch-group-size-per-virtual-pipeline-stage
        no-clone-scatter-output-in-embedding no-overlap-p2p-communication num-layers-per-virtual-pipeline-stage
        num-virtual-stages-per-pipeline-rank overlap-p2p-communication-warmup-flush
        pipeline-model-parallel-layout use-ring-exchange-p2p
        """,
    ),
    (
        "parameters are not sharded over the data-parallel ranks; the distributed optimizer shards its state",
        """
        create-all-gather-group data-parallel-sharding-strategy disable-strict-fsdp-dtensor-load
        disable-symmetric-registration enable-full-sharding-in-hsdp fsdp-db-use-persist-buf-on-alloc-fail
        fsdp-double-buffer fsdp-manual-registration megatron-fsdp-enable-fine-grained-param-gather
        megatron-fsdp-grad-comm-dtype megatron-fsdp-main-grads-dtype megatron-fsdp-main-params-dtype
        megatron-fsdp-max-pool-double-buffer no-strict-fsdp-dtensor-load outer-dp-sharding-strategy
        suggested-communication-unit-size torch-fsdp2-no-reshard-after-forward use-megatron-fsdp use-nccl-ub
        use-torch-fsdp2
        """,
    ),
    (
        "gradients are reduced once, after the last micro-batch of a step",
        """
        check-weight-hash-across-dp-replicas-interval ddp-average-in-collective ddp-bucket-size ddp-num-buckets
        ddp-pad-buckets-for-high-nccl-busbw ddp-param-name-patterns-for-fp32-local-accumulation
        ddp-reduce-scatter-with-fp32-accumulation disable-align-grad-reduce distribute-saved-activations
        gpu-sniff-test-interval no-align-grad-reduce no-align-param-gather no-gradient-reduce-div-fusion
        no-use-layer-wise-param-layout num-distributed-optimizer-instances overlap-grad-reduce
        overlap-param-gather overlap-param-gather-with-optimizer-step
        """,
    ),
    (
        "the optimizer is Adam with float32 state on the trainer's own device",
        """
        apply-wd-to-qk-layernorm decoupled-lr decoupled-min-lr dump-param-to-param-group-map exp-avg-dtype
        exp-avg-sq-dtype freeze-all-layers lion-beta1 lion-beta2 main-grads-dtype main-params-dtype
        muon-coefficient-type muon-extra-scale-factor muon-fp32-matmul-prec muon-momentum muon-nesterov
        muon-no-split-qkv muon-num-ns-steps muon-scalar-optimizer muon-scale-mode muon-tp-mode no-pin-cpu-grads
        no-pin-cpu-params optimizer-cpu-offload optimizer-offload-fraction overlap-cpu-optimizer-d2h-h2d
        override-opt-param-scheduler override-opt_param-scheduler sgd-momentum
        use-checkpoint-opt-param-scheduler use-checkpoint-opt_param-scheduler use-precision-aware-optimizer
        use-torch-optimizer-for-cpu-offload
        """,
    ),
    (
        "checkpoints are written by rl-train, in one format",
        """
        async-ckpt-cpu-priority async-ckpt-io-priority async-ckpt-use-cpu-shm async-strategy
        auto-detect-ckpt-format ckpt-assume-constant-structure ckpt-convert-format ckpt-convert-save
        ckpt-convert-update-legacy-dist-opt-format ckpt-fully-parallel-load
        ckpt-fully-parallel-load-exchange-algo ckpt-fully-parallel-load-process-group
        ckpt-fully-parallel-save-process-group disable-ckpt-load-validate-sharding-integrity
        disable-stream-ckpt-dequant disable-use-tokenizer-model-from-checkpoint-args
        dist-ckpt-optim-fully-reshardable dist-ckpt-save-pre-mcore-014 dist-ckpt-strictness dist-ckpt-workers
        distrib-optim-fully-reshardable-mem-efficient load-main-params-from-ckpt no-ckpt-fully-parallel-save
        no-ckpt-load-validate-sharding-integrity no-stream-ckpt-dequant
        no-use-tokenizer-model-from-checkpoint-args non-persistent-ckpt-type non-persistent-global-ckpt-dir
        non-persistent-local-ckpt-algo non-persistent-local-ckpt-dir non-persistent-save-interval
        override-ckpt-iteration replication replication-factor replication-jump save-activations-interval
        save-dgrads-interval save-params-interval save-wgrads-interval use-checkpoint-args
        use-mp-args-from-checkpoint-args use-persistent-ckpt-worker verify-integrity
        """,
    ),
    (
        "metrics and profiles are the recipe's own: see metrics.jsonl in the run's folder",
        """
        app-tag-run-name app-tag-run-version config-logger-dir disable-flight-recorder-dump-on-timeout
        disable-flight-recorder-extra-dump-on-exec disable-flight-recorder-include-only-active
        disable-log-loss-scale-to-tensorboard disable-straggler-on-startup flight-recorder-dump-path
        flight-recorder-include-stack-trace flight-recorder-trace-buffer-size log-device-memory-used log-energy
        log-interval log-memory-interval log-memory-to-tensorboard log-num-zeros-in-grad log-params-norm
        log-progress log-straggler log-throughput log-timers-to-tensorboard log-validation-ppl-to-tensorboard
        log-world-size-to-tensorboard logging-level memory-snapshot-path no-barrier-with-level-1-timing
        no-flight-recorder-dump-on-timeout no-flight-recorder-extra-dump-on-exec
        no-flight-recorder-include-only-active no-log-loss-scale-to-tensorboard no-one-logger nvtx-ranges
        one-logger-async one-logger-project one-logger-run-name profile profile-ranks profile-step-end
        profile-step-start pytorch-profiler-collect-callstack pytorch-profiler-collect-chakra
        pytorch-profiler-collect-shapes record-memory-history record-shapes straggler-ctrlr-port
        straggler-minmax-count tensorboard-dir tensorboard-log-interval tensorboard-queue-size timing-log-level
        timing-log-option use-pytorch-profiler wandb-entity wandb-exp-name wandb-project wandb-save-dir
        """,
    ),
    (
        "distillation from stored logits is not offered",
        """
        logits-load-decode-threads logits-load-dir logits-load-ignore-errors logits-load-kd-loss-alpha
        logits-load-msc-prefetch-depth logits-load-prefetch-factor logits-save-dir logits-save-dtype
        logits-save-top-k logits-save-top-p logits-save-top-p-min-k
        """,
    ),
    (
        "failures are handled by the recipe, which ends the run and can resume it",
        """
        adlr-autoresume adlr-autoresume-interval calc-ft-timeouts check-for-spiky-loss enable-ft-package
        error-injection-rate error-injection-type fault-injector-delay-start-iteration
        fault-injector-fault-delay fault-injector-fault-probabilities fault-injector-fault-types
        fault-injector-mtti-seconds fault-injector-num-ranks fault-injector-offset-seconds fault-injector-ranks
        fault-injector-seed ft-num-warmup-iters inprocess-active-world-size inprocess-barrier-timeout
        inprocess-completion-timeout inprocess-empty-cuda-cache inprocess-granularity inprocess-hard-timeout
        inprocess-heartbeat-interval inprocess-heartbeat-timeout inprocess-last-call-wait
        inprocess-max-iterations inprocess-monitor-process-interval inprocess-monitor-thread-interval
        inprocess-progress-watchdog-interval inprocess-restart inprocess-soft-timeout
        inprocess-termination-grace-time rerun-mode run-workload-inspector-server
        """,
    ),
    (
        "the tokenizer is the one of the --hf-checkpoint folder",
        """
        chat-template disable-pad-vocab-size disable-tokenizer-sentencepiece-ignore-extra-whitespaces merge-file
        no-pad-vocab-size no-tokenizer-sentencepiece-ignore-extra-whitespaces null-tokenizer-eod-id
        null-tokenizer-pad-id padded-vocab-size tiktoken-num-special-tokens tiktoken-pattern
        tokenizer-hf-no-include-special-tokens tokenizer-hf-no-use-fast tokenizer-metadata tokenizer-model
        tokenizer-sentencepiece-legacy tokenizer-special-tokens tokenizer-type trust-remote-code vocab-extra-ids
        vocab-file
        """,
    ),
    (
        "rl-data reads the data: use --prompt-data",
        """
        allow-ambiguous-pad-tokens data-args-path data-cache-path data-path dataloader-defer-npy-index-mmap
        dataloader-fast-cache-load dataloader-inter-document-masking disable-msc enable-msc eod-mask-loss
        fim-data fim-eod-token fim-fragment-rate fim-middle-token fim-no-prefix fim-pad-token fim-prefix-token
        fim-rate fim-split-sample fim-spm-rate fim-suffix-token mask-prob mid-level-dataset-surplus mock-data
        no-create-attention-mask-in-dataloader no-mmap-bin-files num-dataset-builder-threads num-workers
        object-storage-cache-path per-dataset-sequences-path per-split-data-args-path
        phase-transition-iterations reset-attention-mask reset-position-ids sample-rate sft
        sft-tokenizer-prompt-format short-seq-prob split test-data-path train-data-path valid-data-path
        """,
    ),
    (
        "vision, retrieval and BERT models are not offered",
        """
        bert-load biencoder-projection-dim biencoder-shared-query-context-model block-data-path classes-fraction
        data-per-class-fraction dino-bottleneck-size dino-freeze-last-layer dino-head-hidden-size
        dino-local-crops-number dino-local-img-size dino-norm-last-layer dino-teacher-temp
        dino-warmup-teacher-temp dino-warmup-teacher-temp-epochs embedding-path evidence-data-path head-lr-mult
        ict-head-size ict-load img-h img-w indexer-batch-size indexer-log-interval iter-per-epoch mask-factor
        mask-type no-data-sharding num-channels num-classes patch-dim query-in-block-prob
        retriever-report-topk-accuracies retriever-score-scaling swin-backbone-type titles-data-path
        use-one-sent-docs vision-backbone-type vision-pretraining vision-pretraining-type
        """,
    ),
    (
        "it belongs to Megatron's own training loop, which is not run",
        """
        check-for-large-grads dataloader-type disable-manual-gc-eval empty-unused-memory-level
        exit-duration-in-mins exit-interval exit-signal exit-signal-handler exit-signal-handler-for-dataloader
        exit-signal-handler-for-training iterations-to-skip manual-gc manual-gc-interval
        no-check-for-nan-in-loss-and-grad no-manual-gc-eval result-rejected-tracker-filename train-sync-interval
        """,
    ),
    (
        "the trainer decides it by its device",
        """
        deterministic-mode disable-jit-fuser
        """,
    ),
)

REFUSED: dict[str, str] = {f"--{name}": reason for reason, names in _BY_REASON for name in names.split()}
"""Flag -> why it is refused."""
