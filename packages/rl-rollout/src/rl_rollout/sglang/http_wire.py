"""What goes to a SGLang server over HTTP: its address, sampling parameters, and weights as safetensors files."""

import json
import re
import struct
from collections.abc import Sequence

import msgspec

from rl_rollout.engine import SamplingParams
from rl_rollout.errors import RolloutConfigError
from rl_rollout.sglang.messages import WireSampling
from rl_rollout.weights import TensorSpec, num_bytes_of

_LAST_PORT = 65535
_ADDRESS = re.compile(
    r"((?P<scheme>https?)://)?(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})/*", re.ASCII
)
_SAFETENSORS_NAMES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "bool": "BOOL", "uint8": "U8",
    "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip


def base_url(address: str) -> str:
    """The URL of an address.

    Raises:
        RolloutConfigError: if it is not "HOST:PORT", with or without "http://" or "https://" in front.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) <= _LAST_PORT:
        raise RolloutConfigError(f"engine address {address!r}: expected HOST:PORT or http://HOST:PORT")
    return f"{found['scheme'] or 'http'}://{found['host']}:{found['port']}"


def sampling_json(sampling: SamplingParams, seed: int) -> dict[str, object]:
    """SGLang's sampling parameters."""
    wire = msgspec.to_builtins(WireSampling.of(sampling, seed))
    return {**wire, "skip_special_tokens": sampling.skip_special_tokens}


def safetensors_header(specs: Sequence[TensorSpec]) -> bytes:
    """What stands before the tensors' bytes, which lie in a bucket as they do in such a file."""
    header: dict[str, object] = {}
    start = 0
    for name, dtype, shape in specs:
        stop = start + num_bytes_of((name, dtype, tuple(shape)))
        header[name] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
