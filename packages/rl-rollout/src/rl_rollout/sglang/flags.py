"""SGLang server flags that are honoured, and those that are refused with the reason.

Plain names without the prefix `--sglang-`: importing this imports nothing else.
"""

_HONOURED = """
    attention-backend bf16-gemm-backend chunked-prefill-size context-length crash-dump-folder
    cuda-graph-backend-decode cuda-graph-backend-prefill cuda-graph-bs cuda-graph-bs-decode
    cuda-graph-bs-prefill cuda-graph-config cuda-graph-max-bs cuda-graph-max-bs-decode cuda-graph-max-bs-prefill
    cuda-graph-tc-compiler decode-attention-backend decode-log-interval device disable-chunked-prefix-cache
    disable-cuda-graph disable-cuda-graph-padding disable-custom-all-reduce disable-decode-cuda-graph
    disable-flashinfer-autotune disable-overlap-schedule disable-prefill-cuda-graph disable-radix-cache
    dist-timeout dtype enable-cudagraph-gc enable-deterministic-inference enable-dynamic-chunking
    enable-flashinfer-allreduce-fusion enable-fp32-lm-head enable-fused-qk-norm-rope enable-mixed-chunk
    enable-mscclpp enable-nccl-nvls enable-p2p-check enable-prefill-delayer enable-symm-mem enable-tf32-matmul
    enable-torch-compile enable-torch-symm-mem enforce-disable-flashinfer-allreduce-fusion
    flashinfer-allreduce-fusion-backend flashinfer-autotune-skip-ops gc-threshold kv-cache-dtype load-format
    log-level max-prefill-tokens max-queued-requests max-running-requests max-total-tokens mem-fraction-static
    min-free-slots-delay model-impl model-loader-extra-config num-continuous-decode-steps numa-node page-size
    pre-warm-nccl prefill-attention-backend prefill-delayer-max-delay-ms prefill-delayer-max-delay-passes
    prefill-delayer-queue-min-ratio prefill-delayer-token-usage-low-watermark prefill-max-requests
    radix-eviction-policy retraction-policy sampling-backend schedule-conservativeness schedule-policy
    scheduler-recv-interval sleep-on-idle soft-watchdog-timeout torch-compile-max-bs
    triton-attention-num-kv-splits triton-attention-reduce-in-fp32 triton-attention-split-tile-size
    watchdog-timeout weight-loader-disable-mmap weight-loader-drop-cache-after-load
    weight-loader-prefetch-checkpoints weight-loader-prefetch-num-threads
"""

_REFUSED: tuple[tuple[str, str], ...] = (
    (
        "use --help-sglang, and --config for a file of flags",
        """
        config help
        """,
    ),
    (
        "the engines serve the model of --hf-checkpoint, with its tokenizer and chat template",
        """
        chat-template completion-template default-chat-template-kwargs download-dir hf-chat-template-name model
        model-checksum model-config-parser model-path revision served-model-name tokenizer-backend
        tokenizer-mode tokenizer-path
        """,
    ),
    (
        "engines take and give tokens; text is made and read by rl-data",
        """
        allow-auto-truncate batch-notify-size detokenizer-worker-num disable-tokenizer-batch-decode
        dynamic-batch-tokenizer-batch-size dynamic-batch-tokenizer-batch-timeout enable-dynamic-batch-tokenizer
        enable-session-radix-cache enable-streaming-session enable-strict-thinking enable-tokenizer-batch-encode
        incremental-streaming-output skip-tokenizer-init stream-interval stream-output
        stream-response-default-include-usage strip-thinking-cache tokenizer-worker-num
        """,
    ),
    (
        "use --rollout-num-gpus-per-engine",
        """
        tensor-parallel-size tp-size
        """,
    ),
    (
        "an engine of several GPUs is tensor-parallel: use --rollout-num-gpus-per-engine",
        """
        attention-context-parallel-size attn-cp-size cp-strategy data-parallel-size dcp-comm-backend
        dcp-replicate-q-proj dcp-size decode-context-parallel-size disable-attn-tp-gather dp-size
        dsa-prefill-cp-mode dwdp-size enable-attn-tp-input-scattered enable-cp-decode-attn-tp
        enable-dp-attention enable-dp-attention-local-control-broadcast enable-dp-lm-head
        enable-dsa-prefill-context-parallel enable-nsa-prefill-context-parallel enable-prefill-context-parallel
        enable-prefill-cp load-balance-method no-dcp-replicate-q-proj nsa-prefill-cp-mode pipeline-parallel-size
        pp-async-batch-depth pp-max-micro-batch-size pp-size prefill-cp-mode
        """,
    ),
    (
        "engines are placed by the recipe: use --rollout-num-gpus",
        """
        base-gpu-id dist-init-addr gpu-id-step nccl-init-addr nccl-port nnodes node-rank use-ray
        """,
    ),
    (
        "use --rollout-seed; every request has a seed of its own",
        """
        random-seed
        """,
    ),
    (
        "sampling is set per request: use the --rollout- and --eval- flags",
        """
        enable-custom-logit-processor preferred-sampling-params sampling-defaults
        """,
    ),
    (
        "the recipe moves the weights from the trainer to the engines",
        """
        checkpoint-engine-wait-weights-before-ready custom-weight-loader delete-ckpt-after-loading
        enable-draft-weights-cpu-backup enable-weights-cpu-backup weight-cache-mode
        weight-cache-socket weight-cache-timeout weight-version
        """,
    ),
    (
        "--colocate turns it on, where engines have to give their memory up",
        """
        enable-memory-saver
        """,
    ),
    (
        "the engine must run the same model as the trainer",
        """
        debug-tensor-dump-input-file debug-tensor-dump-layers debug-tensor-dump-output-folder
        decrypted-config-file decrypted-draft-config-file forward-hooks json-model-override-args kv-canary
        kv-canary-real-data kv-canary-sweep-interval msprobe-dump-config trust-remote-code
        """,
    ),
    (
        "the engine holds the weights as the trainer publishes them, which are not quantised",
        """
        disable-flashinfer-cutlass-moe-fp4-allgather enable-deepseek-v4-fp4-indexer enable-quant-communications
        flashinfer-mxfp4-moe-precision fp4-gemm-backend fp8-gemm-backend modelopt-checkpoint-restore-path
        modelopt-checkpoint-save-path modelopt-export-path modelopt-quant quantization quantization-param-path
        quantize-and-serve rl-quant-profile speculative-draft-model-quantization torchao-config
        """,
    ),
    (
        "speculative decoding is not offered: a draft model would fall behind the policy",
        """
        decoupled-spec-bind-endpoint decoupled-spec-connect-endpoints decoupled-spec-rank decoupled-spec-role
        enable-gdn-replayssm-spec enable-multi-layer-eagle spec-trace-dir speculative-accept-threshold-acc
        speculative-accept-threshold-single speculative-adaptive speculative-adaptive-config
        speculative-algorithm speculative-attention-mode speculative-dflash-block-size
        speculative-dflash-draft-window-size speculative-draft-attention-backend speculative-draft-load-format
        speculative-draft-model speculative-draft-model-path speculative-draft-model-revision
        speculative-draft-window-size speculative-dspark-align-verify-tokens-to-graph-tier
        speculative-dspark-block-size speculative-dspark-confidence-sts-path speculative-dspark-sps-table-path
        speculative-eagle-topk speculative-moe-a2a-backend speculative-moe-runner-backend
        speculative-ngram-capacity speculative-ngram-external-corpus-max-tokens
        speculative-ngram-external-corpus-path speculative-ngram-external-sam-budget
        speculative-ngram-match-type speculative-ngram-max-bfs-breadth speculative-ngram-max-trie-depth
        speculative-ngram-min-bfs-breadth speculative-num-draft-tokens speculative-num-steps
        speculative-skip-dp-mlp-sync speculative-token-map speculative-use-rejection-sampling
        """,
    ),
    (
        "mixture-of-experts models are not offered",
        """
        deepep-config deepep-dispatcher-output-dtype deepep-mode disable-shared-experts-fusion
        elastic-ep-backend elastic-ep-initial-size elastic-ep-join-mode elastic-ep-join-rank-offset
        elastic-ep-rejoin elastic-ep-scale-timeout enable-elastic-expert-backup enable-eplb
        enable-expert-distribution-metrics enable-fused-moe-sum-all-reduce enable-return-routed-experts
        enable-single-batch-overlap enable-two-batch-overlap enable-waterfill enforce-shared-experts-fusion ep
        ep-dispatch-algorithm ep-num-redundant-experts ep-size eplb-algorithm
        eplb-min-rebalancing-utilization-threshold eplb-rebalance-layers-per-chunk eplb-rebalance-num-iterations
        expert-distribution-recorder-buffer-size expert-distribution-recorder-mode expert-parallel-size
        experts-shared-outer-loras fuseep-mode init-expert-location kt-max-deferred-experts-per-token
        kt-num-gpu-experts lora-use-virtual-experts max-ep-size moe-a2a-backend moe-data-parallel-size
        moe-dense-tp-size moe-dp-size moe-runner-backend mooncake-ib-device no-experts-shared-outer-loras
        tbo-token-distribution-threshold
        """,
    ),
    (
        "adapters are not offered; all weights are published",
        """
        enable-lora enable-lora-overlap-loading lora-backend lora-drain-wait-threshold lora-eviction-policy
        lora-paths lora-strict-loading lora-target-modules max-loaded-loras max-lora-chunk-size max-lora-rank
        max-loras-per-batch no-lora-strict-loading
        """,
    ),
    (
        "only text models are offered",
        """
        asr-max-buffer-seconds asr-max-concurrent-sessions disable-fast-image-processor
        enable-adaptive-dispatch-to-encoder enable-broadcast-mm-inputs-process enable-mis enable-mm-global-cache
        enable-multimodal enable-precise-embedding-interpolation enable-prefix-mm-cache encoder-bootstrap-port
        encoder-only encoder-register-urls encoder-transfer-backend encoder-urls keep-mm-feature-on-device
        language-only limit-mm-data-per-request mm-attention-backend mm-enable-dp-encoder mm-feature-transport
        mm-io-worker-num mm-process-config mm-processor-worker-num
        """,
    ),
    (
        "models with other than plain attention layers are not offered",
        """
        disable-hybrid-swa-memory dsa-decode-backend dsa-paged-mqa-logits-backend dsa-prefill-backend
        dsa-topk-backend enable-dsa-cache-layer-split enable-hisparse enable-int8-mamba-checkpoint
        enable-linear-replayssm enable-linear-replayssm-spec enable-mamba-cache-stochastic-rounding
        enable-page-major-kv-layout enable-return-indexer-topk enable-scattered-sconv enable-unified-memory
        flashinfer-mla-disable-ragged hierarchical-sparse-attention-extra-config hisparse-config
        int8-mamba-ckpt-size linear-attn-backend linear-attn-decode-backend linear-attn-prefill-backend
        linear-attn-verify-backend linear-replayssm-cache-len mamba-backend mamba-cache-philox-rounds
        mamba-full-memory-ratio mamba-max-states-per-path mamba-radix-cache-strategy mamba-scheduler-strategy
        mamba-ssm-dtype mamba-track-interval max-mamba-cache-size nsa-decode-backend nsa-prefill-backend
        swa-full-tokens-ratio
        """,
    ),
    (
        "a cache beside the engine's own would outlive a weight update",
        """
        enable-flexkv enable-hierarchical-cache enable-lmcache flexkv-config-file hicache-io-backend
        hicache-mem-layout hicache-ratio hicache-size hicache-storage-backend
        hicache-storage-backend-extra-config hicache-storage-prefetch-policy hicache-write-policy
        kv-events-config lmcache-config-file radix-cache-backend
        """,
    ),
    (
        "an engine does its own prefill and holds its own weights",
        """
        disaggregation-bootstrap-port disaggregation-decode-enable-offload-kvcache
        disaggregation-decode-enable-radix-cache disaggregation-decode-extra-slots
        disaggregation-decode-polling-interval disaggregation-ib-device disaggregation-mode
        disaggregation-transfer-backend enable-pdmux engine-info-bootstrap-port load-snapshot-publish-interval
        modelexpress-config num-reserved-decode-tokens optimistic-prefill-attempts pdmux-config-path
        prefill-round-robin-balance remote-instance-weight-loader-backend
        remote-instance-weight-loader-seed-instance-ip remote-instance-weight-loader-seed-instance-service-port
        remote-instance-weight-loader-send-weights-group-ports
        remote-instance-weight-loader-start-seed-via-transfer-engine sm-group-num
        """,
    ),
    (
        "the engine's weights stay on its devices",
        """
        cpu-offload-gb kt-cpuinfer kt-method kt-threadpool-count kt-weight-path offload-group-size offload-mode
        offload-num-in-group offload-prefetch-step
        """,
    ),
    (
        "engines generate from causal language models only",
        """
        dllm-algorithm dllm-algorithm-config dllm-fdfo enable-return-hidden-states is-embedding no-dllm-fdfo
        prefill-only-disable-kv-cache return-hidden-states-mode
        """,
    ),
    (
        "it imitates another trainer's kernels",
        """
        rl-on-policy-target
        """,
    ),
    (
        "engines are called directly; there is no HTTP server",
        """
        admin-api-key api-key enable-cache-report enable-http2 enable-ssl-refresh fastapi-root-path
        file-storage-path grpc-http-sidecar-port grpc-mode grpc-port host log-level-http log-requests
        log-requests-format log-requests-level log-requests-target port reasoning-parser sidecar sidecar-args
        skip-server-warmup smg-grpc-mode smg-http-sidecar-port ssl-ca-certs ssl-certfile ssl-keyfile
        ssl-keyfile-password tool-call-parser tool-server uvicorn-access-log-exclude-prefixes warmups
        """,
    ),
    (
        "metrics are the recipe's own: see metrics.jsonl in the run's folder",
        """
        bucket-e2e-request-latency bucket-inter-token-latency bucket-time-to-first-token
        collect-tokens-histogram debug-cuda-graph enable-forward-pass-metrics enable-layerwise-nvtx-marker
        enable-metrics enable-metrics-for-all-schedulers enable-mfu-metrics enable-profile-cuda-graph
        enable-request-time-stats-logging enable-torch-compile-debug-mode enable-trace export-metrics-to-file
        export-metrics-to-file-dir extra-metric-labels forward-pass-metrics-ipc-name
        forward-pass-metrics-worker-id gc-warning-threshold-secs generation-tokens-buckets otlp-traces-endpoint
        prefill-delayer-forward-passes-buckets prefill-delayer-wait-seconds-buckets prompt-tokens-buckets
        show-time-cost tokenizer-metrics-allowed-custom-labels tokenizer-metrics-custom-labels-header
        trace-modules
        """,
    ),
    (
        "constrained output is not offered",
        """
        constrained-json-disable-any-whitespace constrained-json-whitespace-pattern disable-outlines-disk-cache
        grammar-backend
        """,
    ),
    (
        "all requests of a rollout have the same priority",
        """
        abort-on-priority-when-disabled default-priority-value disable-priority-preemption
        enable-priority-scheduling priority-scheduling-preemption-threshold schedule-low-priority-values-first
        """,
    ),
    (
        "AMD devices are not offered",
        """
        enable-aiter-allreduce-fusion
        """,
    ),
    (
        "SGLang has retired it: use the --sglang-cuda-graph- flags",
        """
        disable-piecewise-cuda-graph enable-breakable-cuda-graph enforce-piecewise-cuda-graph
        piecewise-cuda-graph-compiler piecewise-cuda-graph-max-tokens piecewise-cuda-graph-tokens
        """,
    ),
)

HONOURED: frozenset[str] = frozenset(f"--{name}" for name in _HONOURED.split())
"""Flags of SGLang's parser that an engine here takes as they are."""

REFUSED: dict[str, str] = {f"--{name}": reason for reason, names in _REFUSED for name in names.split()}
"""Flag of SGLang's parser -> why it is refused."""
