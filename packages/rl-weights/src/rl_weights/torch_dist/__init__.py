"""Checkpoints in Megatron's torch_dist format, read and written without Megatron.

Nothing is imported here: `names` and `layout` are used without torch.
"""
