"""How much of the forward pass is kept for the backward pass, chosen by memory.

All sizes are bytes of one token in one layer on one rank, in half precision; in float32 all but the log-sum-exp are
twice that. With h the hidden size, q = (H + 2 G) D
the merged projection of H query and G key/value heads of dimension D, a = H D, F the feed-forward size, t the
tensor-parallel size and s = t under sequence parallelism, else 1, autograd keeps of a layer

    what                                        bytes       computed again by
    its input, and that of its second norm      2 x 2 h/s   the whole layer
    the merged projection                       2 q/t       the whole layer
    attention's output and log-sum-exp          2 a/t + 4 H/t   the whole layer
    the first projection of the feed-forward    4 F/t       the whole layer
    outputs of the two norms                    2 x 2 h/s   one element-wise pass
    rotated queries and keys, and values        2 q/t       one element-wise pass
    the product silu(gate) x up                 2 F/t       one element-wise pass

Layers computed again as a whole keep their input, 2 h/s, and cost a third of a step; the last three rows cost about 2 %
of one. While a layer's backward runs, its gradients take about as much again as F/t x 8 + h x 8.

Whole layers are computed again exactly, and so are the element-wise passes but for one: in half precision the second
norm is computed again from the rounded sum, see `norm.RMSNorm.after_adding`.
"""

from typing import Literal, NamedTuple

type RecomputePolicy = Literal["auto", "none", "activations", "full"]

# Of the free memory, what fragments and kernels' workspaces are left.
_USABLE = 0.95
_RESERVE_BYTES = 2**30


class LayerShape(NamedTuple):
    """What decides how much a rank's layers keep."""

    num_layers: int
    """On this pipeline stage."""
    hidden_size: int
    num_heads: int
    num_groups: int
    head_dim: int
    feed_forward: int
    vocab_size: int
    tensor_parallel: int = 1
    is_sequence_parallel: bool = False
    element_bytes: int = 2
    num_in_flight: int = 1
    """Micro-batches whose forward pass is done on this pipeline stage before the backward of the first."""


class LayerBytes(NamedTuple):
    """Of one token in one layer."""

    input: int
    kept: int
    """Without the element-wise results, but with the input."""
    elementwise: int
    """Results of element-wise passes."""
    gradients: int
    """In use while the layer's backward runs."""


class RecomputePlan(NamedTuple):
    """What is computed again in the backward pass."""

    activations: bool
    """Results of element-wise passes, in all layers."""
    num_full_layers: int
    """Whole layers, the first ones of the stage."""


NOTHING = RecomputePlan(activations=False, num_full_layers=0)


def layer_bytes(shape: LayerShape) -> LayerBytes:
    """The table of the module's docstring for one shape."""
    split, size = shape.tensor_parallel, shape.element_bytes
    hidden = size * shape.hidden_size // (split if shape.is_sequence_parallel else 1)
    merged = size * (shape.num_heads + 2 * shape.num_groups) * shape.head_dim // split
    attended = size * shape.num_heads * shape.head_dim // split + 4 * shape.num_heads // split
    gate_and_up = 2 * size * shape.feed_forward // split
    return LayerBytes(
        input=hidden,
        kept=2 * hidden + merged + attended + gate_and_up,
        elementwise=2 * hidden + merged + gate_and_up // 2,
        gradients=2 * gate_and_up + 4 * hidden,
    )


def step_bytes(shape: LayerShape, plan: RecomputePlan, num_tokens: int, chunk_size: int) -> int:
    """Estimate of what a micro-batch of `num_tokens` takes at most beside weights, gradients and optimizer state."""
    each = layer_bytes(shape)
    whole = each.kept + each.elementwise
    kept = each.kept if plan.activations else whole
    num_kept = shape.num_layers - plan.num_full_layers
    per_token = shape.num_in_flight * (num_kept * kept + plan.num_full_layers * each.input)
    # One layer at work; where layers are computed again, one of them is whole at that time.
    per_token += each.gradients + (whole if plan.num_full_layers else each.elementwise)
    rows = -(-shape.vocab_size // shape.tensor_parallel)
    # A chunk of logits; the final norm's input, output and gradients; the gradient of the embedding before it is added.
    elements = chunk_size * rows + num_tokens * 4 * shape.hidden_size + rows * shape.hidden_size
    ends = shape.element_bytes * elements
    return num_tokens * per_token + ends


def plan_recompute(
    policy: RecomputePolicy, shape: LayerShape, *, num_tokens: int, chunk_size: int, free_bytes: int
) -> RecomputePlan:
    """The cheapest plan whose estimate fits into the free memory; the smallest one if none does.

    Args:
        policy: "auto" chooses, the others say it.
        shape: of the layers on this rank.
        num_tokens: of the largest micro-batch.
        chunk_size: tokens whose logits exist at once.
        free_bytes: what the GPU has left beside weights, gradients and optimizer state.
    """
    everything = RecomputePlan(activations=True, num_full_layers=shape.num_layers)
    if policy != "auto":
        return {"none": NOTHING, "activations": RecomputePlan(activations=True, num_full_layers=0), "full": everything}[
            policy
        ]
    usable = free_bytes * _USABLE - _RESERVE_BYTES
    plans = [NOTHING, *(RecomputePlan(activations=True, num_full_layers=n) for n in range(shape.num_layers + 1))]
    fitting = (plan for plan in plans if step_bytes(shape, plan, num_tokens, chunk_size) <= usable)
    return next(fitting, everything)
