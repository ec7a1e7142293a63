"""One Megatron rank of a test, run under torchrun: loads and saves checkpoints, and writes what the models compute.

Usage: torchrun --nproc_per_node=N megatron_rank.py JOBS.json
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist


def main(jobs):
    import megatron_cpu

    megatron_cpu.prepare()
    dist.init_process_group("gloo")
    for job in jobs:
        run(job)
    dist.destroy_process_group()


def run(job):
    """Builds the model at the job's parallel sizes, then does what the job names: load, step, logits, save."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=job["tp"],
        pipeline_model_parallel_size=job["pp"],
        expert_model_parallel_size=job["ep"],
        expert_tensor_parallel_size=1 if job["ep"] > 1 else None,
    )
    model_parallel_cuda_manual_seed(1)
    model = build(job)
    if "load" in job:
        load(model, job["load"])
    if "training_load" in job:
        load_as_megatron_training_does(model, job)
    optimizer = one_step(model) if "optimizer" in job else None
    with torch.no_grad():
        logits = forward(model, torch.tensor(job["tokens"]))
    is_first = parallel_state.get_tensor_model_parallel_rank() == parallel_state.get_data_parallel_rank() == 0
    if logits is not None and is_first:
        torch.save(logits, job["logits"])
    if "save" in job:
        save(model, optimizer, job)
    dist.barrier()
    parallel_state.destroy_model_parallel()
    leave_groups()


def leave_groups():
    """Ends all groups but that of all ranks: Megatron only forgets its own, whose threads would stay and poll."""
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)


def build(job):
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
    from megatron.core.transformer import TransformerConfig

    hf = json.loads(Path(job["config"]).read_text())
    config = TransformerConfig(
        num_layers=hf["num_hidden_layers"],
        hidden_size=hf["hidden_size"],
        ffn_hidden_size=hf["intermediate_size"],
        num_attention_heads=hf["num_attention_heads"],
        num_query_groups=hf["num_key_value_heads"],
        kv_channels=hf["head_dim"],
        layernorm_epsilon=hf["rms_norm_eps"],
        normalization="RMSNorm",
        qk_layernorm=hf["model_type"].startswith("qwen3"),
        add_qkv_bias=hf["model_type"] == "qwen2",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        use_cpu_initialization=True,
        tensor_model_parallel_size=job["tp"],
        pipeline_model_parallel_size=job["pp"],
        num_layers_in_first_pipeline_stage=job["first_stage_layers"],
        pipeline_dtype=torch.float32,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        **(experts(hf, job) if "num_experts" in hf else {}),
    )
    return GPTModel(
        config,
        get_gpt_decoder_block_spec(config, use_transformer_engine=False),
        vocab_size=job["padded_vocab"],
        max_sequence_length=64,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=hf["tie_word_embeddings"],
        position_embedding_type="rope",
        rotary_base=int(hf["rope_parameters"]["rope_theta"]),
        rope_scaling=hf["rope_parameters"]["rope_type"] == "llama3",
        parallel_output=False,
    ).eval()


def experts(hf, job):
    """Settings of experts that are chosen as in Qwen3-MoE: the best k of a softmax over all, scaled to a sum of 1."""
    return {
        "num_moe_experts": hf["num_experts"],
        "moe_ffn_hidden_size": hf["moe_intermediate_size"],
        "moe_layer_freq": [int(layer not in hf["mlp_only_layers"]) for layer in range(hf["num_hidden_layers"])]
        if hf["mlp_only_layers"]
        else 1,
        "moe_router_topk": hf["num_experts_per_tok"],
        "moe_router_load_balancing_type": "none",
        "moe_token_dispatcher_type": "allgather",
        "expert_model_parallel_size": job["ep"],
        "expert_tensor_parallel_size": 1 if job["ep"] > 1 else job["tp"],
    }


def metadata():
    from megatron.core import parallel_state

    return {
        "singleton_local_shards": False,
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }


def one_step(model):
    """A distributed optimizer that has taken one step, so that it has state to save."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    ddp = DistributedDataParallel(model.config, DistributedDataParallelConfig(use_distributed_optimizer=True), model)
    optimizer = get_megatron_optimizer(OptimizerConfig(lr=1e-3, use_distributed_optimizer=True), [ddp])
    for parameter in model.parameters():
        parameter.main_grad.fill_(0.01)
    optimizer.step()
    return optimizer


def save(model, optimizer, job):
    from megatron.core import dist_checkpointing

    sharding = {**metadata(), "distrib_optim_sharding_type": job.get("optimizer")}
    state = {
        "checkpoint_version": 3.0,
        "iteration": 7,
        "model": model.sharded_state_dict(metadata=sharding),
    }
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(dict(state), metadata=sharding)
    folder = Path(job["save"])
    if dist.get_rank() == 0:
        folder.mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(state, str(folder))


def load(model, checkpoint):
    """Loads the weights, and wants the checkpoint to hold exactly what the model asks for."""
    from megatron.core import dist_checkpointing

    state = {"model": model.sharded_state_dict(metadata=metadata())}
    state, missing, unexpected = dist_checkpointing.load(state, checkpoint, strict="return_all")
    if missing or unexpected:
        raise AssertionError(f"missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    model.load_state_dict(state["model"])


def load_as_megatron_training_does(model, job):
    """Loads through the reader of Megatron's training scripts, which finds the release by its tracker file."""
    from megatron.training import checkpointing
    from megatron.training.arguments import parse_args
    from megatron.training.global_vars import set_args

    flags = {
        "--num-layers": model.config.num_layers,
        "--hidden-size": model.config.hidden_size,
        "--num-attention-heads": model.config.num_attention_heads,
        "--tensor-model-parallel-size": job["tp"],
        "--pipeline-model-parallel-size": job["pp"],
        "--load": job["training_load"],
    }
    given, sys.argv = sys.argv, [sys.argv[0], *(str(word) for flag in flags.items() for word in flag)]
    args = parse_args(ignore_unknown_args=True)
    sys.argv = given
    args.consumed_train_samples = 0
    set_args(args)
    iteration, _ = checkpointing.load_checkpoint([model], None, None, strict=True)
    assert iteration == 0


def forward(model, tokens):
    """[batch, tokens, vocabulary] logits on the last stage, None elsewhere."""
    from megatron.core import parallel_state

    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    mask = torch.ones(1, 1, tokens.shape[1], tokens.shape[1]).triu(1).bool()
    if parallel_state.is_pipeline_first_stage():
        out = model(tokens, positions, mask)
    else:
        shape = (tokens.shape[1], tokens.shape[0], model.config.hidden_size)
        hidden = torch.empty(shape)
        dist.recv(hidden, parallel_state.get_pipeline_model_parallel_prev_rank())
        model.set_input_tensor(hidden)
        out = model(tokens, positions, mask)
    if not parallel_state.is_pipeline_last_stage():
        dist.send(out.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
        return None
    return out


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
