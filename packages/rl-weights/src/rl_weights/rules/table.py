"""One function for each kind of line that the families' tables are made of."""

from rl_weights.rules.model_shape import ModelShape
from rl_weights.rules.rule import FuseGateUp, FuseQKV, PadVocabulary, TensorRule


def norm(megatron: str, hf: str, size: int) -> TensorRule:
    """The weight of a normalisation, which every tensor-parallel rank holds whole."""
    return TensorRule(megatron_name=megatron, hf_names=(hf,), hf_shapes=((size,),))


def row_parallel(megatron: str, hf: str, rows: int, columns: int, expert: int | None = None) -> TensorRule:
    """A projection whose columns, the inputs, are sliced over the tensor-parallel ranks; of one expert, if given."""
    return TensorRule(megatron_name=megatron, hf_names=(hf,), hf_shapes=((rows, columns),), tp_dim=1, expert=expert)


def qkv(megatron: str, hf: str, shape: ModelShape) -> TensorRule:
    """The weight of the fused query, key and value projection.

    Args:
        megatron: name of the fused weight.
        hf: names of the three weights, with `{}` where q, k and v stand.
        shape: sizes of the model.
    """
    return _fused_qkv(megatron, hf, shape, (shape.hidden,))


def qkv_bias(megatron: str, hf: str, shape: ModelShape) -> TensorRule:
    """The bias of the fused query, key and value projection; arguments as for `qkv`."""
    return _fused_qkv(megatron, hf, shape, ())


def _fused_qkv(megatron: str, hf: str, shape: ModelShape, columns: tuple[int, ...]) -> TensorRule:
    rows = [shape.head_dim * heads for heads in (shape.num_heads, shape.num_groups, shape.num_groups)]
    return FuseQKV(
        megatron_name=megatron,
        hf_names=tuple(hf.format(letter) for letter in "qkv"),
        hf_shapes=tuple((count, *columns) for count in rows),
        tp_dim=0,
        num_groups=shape.num_groups,
    )


def gate_up(megatron: str, hf: str, ffn: int, hidden: int, expert: int | None = None) -> TensorRule:
    """The fused gate and up projection of the feed-forward part, or of one expert.

    Args:
        megatron: name of the fused weight.
        hf: names of the two weights, with `{}` where gate and up stand.
        ffn: rows of each.
        hidden: columns of each.
        expert: number of the expert.
    """
    return FuseGateUp(
        megatron_name=megatron,
        hf_names=(hf.format("gate"), hf.format("up")),
        hf_shapes=((ffn, hidden),) * 2,
        tp_dim=0,
        expert=expert,
    )


def whole(megatron: str, hf: str, rows: int, columns: int) -> TensorRule:
    """A matrix that every tensor-parallel rank holds whole."""
    return TensorRule(megatron_name=megatron, hf_names=(hf,), hf_shapes=((rows, columns),))


def vocabulary(megatron: str, hf: str, shape: ModelShape, *, tied_to: str | None = None) -> TensorRule:
    """A matrix with a row for each token, sliced by rows.

    Args:
        megatron: name of the padded matrix.
        hf: name of the matrix without padding.
        shape: sizes of the model.
        tied_to: name under which the checkpoint of a model whose output layer is its embedding may hold it again.
    """
    return PadVocabulary(
        megatron_name=megatron,
        hf_names=(hf,),
        hf_shapes=((shape.vocab, shape.hidden),),
        tp_dim=0,
        tied_names=(tied_to,) if tied_to is not None and shape.is_tied else (),
        padded_rows=shape.padded_vocab,
    )
