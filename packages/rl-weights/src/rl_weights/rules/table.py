"""One function for each kind of line that the families' tables are made of."""

from rl_weights.rules.model_shape import ModelShape
from rl_weights.rules.rule import FuseGateUp, FuseQKV, PadVocabulary, TensorRule


def norm(megatron: str, hf: str, size: int) -> TensorRule:
    """The weight of a normalisation, which every tensor-parallel rank holds whole."""
    return TensorRule(megatron_name=megatron, hf_names=(hf,), hf_shapes=((size,),))


def row_parallel(megatron: str, hf: str, rows: int, columns: int) -> TensorRule:
    """A projection whose columns, the inputs, are sliced over the tensor-parallel ranks."""
    return TensorRule(megatron_name=megatron, hf_names=(hf,), hf_shapes=((rows, columns),), tp_dim=1)


def qkv(megatron: str, hf: str, shape: ModelShape) -> TensorRule:
    """The fused query, key and value projection.

    Args:
        megatron: name of the fused weight.
        hf: names of the three weights, with `{}` where q, k and v stand.
        shape: sizes of the model.
    """
    rows = [shape.head_dim * heads for heads in (shape.num_heads, shape.num_groups, shape.num_groups)]
    return FuseQKV(
        megatron_name=megatron,
        hf_names=tuple(hf.format(letter) for letter in "qkv"),
        hf_shapes=tuple((count, shape.hidden) for count in rows),
        tp_dim=0,
        num_groups=shape.num_groups,
    )


def gate_up(megatron: str, hf: str, shape: ModelShape) -> TensorRule:
    """The fused gate and up projection.

    Args:
        megatron: name of the fused weight.
        hf: names of the two weights, with `{}` where gate and up stand.
        shape: sizes of the model.
    """
    return FuseGateUp(
        megatron_name=megatron,
        hf_names=(hf.format("gate"), hf.format("up")),
        hf_shapes=((shape.ffn, shape.hidden),) * 2,
        tp_dim=0,
    )


def vocabulary(megatron: str, hf: str, shape: ModelShape, tied: tuple[str, ...] = ()) -> TensorRule:
    """A matrix with a row for each token, sliced by rows.

    Args:
        megatron: name of the padded matrix.
        hf: name of the matrix without padding.
        shape: sizes of the model.
        tied: names under which a checkpoint may hold the same matrix again.
    """
    return PadVocabulary(
        megatron_name=megatron,
        hf_names=(hf,),
        hf_shapes=((shape.vocab, shape.hidden),),
        tp_dim=0,
        tied_names=tied,
        padded_rows=shape.padded_vocab,
    )
