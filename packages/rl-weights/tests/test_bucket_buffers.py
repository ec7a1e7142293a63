"""On which device buckets lie."""

from rl_weights.sync.bucket_buffers import sinks_elsewhere


def test_only_where_gpus_read_each_others_memory_may_an_engine_be_on_others():
    sinks = {"same": "GPU-0", "other": "GPU-1", "several": "GPU-0,GPU-1", "none": None}
    alone = sinks_elsewhere("GPU-0", sinks, allow_peers=False)
    assert alone == ["other on GPU-1", "several on GPU-0,GPU-1", "none on no GPU"]
    assert sinks_elsewhere("GPU-0", sinks, allow_peers=True) == ["none on no GPU"]
