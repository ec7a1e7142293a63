"""What an engine and its host process say to each other, and how it is framed on their socket pair.

A frame is 8 bytes of length (little endian), 1 byte that is 1 if a file descriptor comes along, and a msgpack body.
"""

import contextlib
import os
import socket
import struct
import threading
from typing import NamedTuple, Self

import msgspec

from rl_rollout.engine import SamplingParams

_HEADER = struct.Struct("<QB")


class WireSampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """SGLang's sampling parameters under its own names; what is None is left to SGLang."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    sampling_seed: int
    min_new_tokens: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None

    @classmethod
    def of(cls, sampling: SamplingParams, seed: int) -> Self:
        """What one response is drawn with."""
        return cls(
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            sampling_seed=seed & (2**63 - 1),
            min_new_tokens=sampling.min_new_tokens or None,
            stop=list(sampling.stop) or None,
            stop_token_ids=list(sampling.stop_token_ids) or None,
        )


class WireRequest(msgspec.Struct, frozen=True):
    """One response to draw; token ids are int32 bytes."""

    tokens: bytes
    sampling: WireSampling
    skip_special_tokens: bool
    response_start: int
    """Where in the tokens the text begins that the answer goes on with."""


class WireGeneration(msgspec.Struct, frozen=True):
    """One answer; tokens are int32 bytes, logprobs float32 bytes of the same number."""

    tokens: bytes
    logprobs: bytes
    text: str
    finish_reason: str


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Draw responses; answered with WireGenerations in the same order."""

    requests: list[WireRequest]


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Cut off the requests of one call, or of every call."""

    call_id: int | None = None


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Answered when no request is in flight."""


class DeviceStorage(msgspec.Struct, frozen=True):
    """GPU memory of another process, as CUDA's interprocess memory and torch's count of its readers name it."""

    owner: str
    """Who shared it."""
    number: int
    """Which of the owner's pieces of memory it is."""
    device_uuid: str
    handle: bytes
    num_bytes: int
    offset: int
    """Of the memory in the allocation that `handle` names."""
    counter_handle: bytes
    counter_offset: int
    event_handle: bytes
    is_event_needed: bool


class DeviceBuffer(msgspec.Struct, frozen=True, tag=True):
    """A bucket in GPU memory of another process."""

    storage: DeviceStorage
    start: int
    """First byte of the bucket in the storage."""
    num_bytes: int
    alive: list[int]
    """Numbers of the owner's pieces of memory that are still in use; others, and other owners', can be let go of."""


class GroupBuffer(msgspec.Struct, frozen=True, tag=True):
    """A bucket that rank 0 of the joined group broadcasts."""

    num_bytes: int


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load the tensors that lie end to end in the buffer, or without one in the file that comes along."""

    specs: list[tuple[str, str, tuple[int, ...]]]
    checksum: str
    num_bytes: int
    buffer: DeviceBuffer | GroupBuffer | None = None


class ReadBack(msgspec.Struct, frozen=True, tag=True):
    """Write the tensors that the model holds to their `aligned_places` in the memory file that comes along."""

    specs: list[tuple[str, str, tuple[int, ...]]]
    num_bytes: int


class JoinGroup(msgspec.Struct, frozen=True, tag=True):
    """Join a group with the writer of weights, and leave the one before."""

    address: str
    """ "file:///PATH" or "tcp://HOST:PORT" of the store where the ranks meet."""
    backend: str
    size: int
    timeout_s: float
    first_rank: int = 1
    """Of this engine's processes in the group, or the rank of one of them."""


class CheckBuffer(msgspec.Struct, frozen=True, tag=True):
    """Answered with a refusal if the buffer cannot be read, or has another checksum."""

    buffer: DeviceBuffer
    checksum: str


class LetGo(msgspec.Struct, frozen=True, tag=True):
    """Keep no mapping of GPU memory that buckets came in."""


class Flush(msgspec.Struct, frozen=True, tag=True):
    """Forget the KV cache."""


class Release(msgspec.Struct, frozen=True, tag=True):
    """Forget the KV cache and give up the device memory that SGLang has under these tags."""

    tags: list[str]


class Resume(msgspec.Struct, frozen=True, tag=True):
    """Take back the device memory that SGLang has under these tags; what is in it is void."""

    tags: list[str]


class ProcessIds(msgspec.Struct, frozen=True, tag=True):
    """Answered with the ids of the host and of the processes it started."""


type Order = Load | CheckBuffer | ReadBack | JoinGroup | LetGo
"""What the weight loader in SGLang's own processes does."""
type Task = Generate | Abort | Drain | Order | Flush | Release | Resume | ProcessIds


class Call(msgspec.Struct, frozen=True):
    """Engine to host."""

    call_id: int
    task: Task


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The first message of a host."""

    max_request_tokens: int
    """Prompt and response together."""
    is_cpu: bool
    num_ranks: int
    """Processes that hold a part of the model."""
    seconds: dict[str, float]


class Answer(msgspec.Struct, frozen=True, tag=True):
    """A call that succeeded."""

    call_id: int
    generations: list[WireGeneration] = []
    process_ids: list[int] = []
    refusal: str | None = None
    """Why an order of weights was not carried out; None if it was."""
    seconds: dict[str, float] = {}
    """Time by phase of what was done."""


class Failure(msgspec.Struct, frozen=True, tag=True):
    """A call that did not; `is_request_error` if the engine is fine and the request was not."""

    call_id: int
    message: str
    is_request_error: bool = False


type FromHost = Ready | Answer | Failure


class Frame(NamedTuple):
    """A received message, and the file descriptor that came with it (the receiver closes it)."""

    body: bytes
    descriptor: int | None


class Channel:
    """One end of the socket pair. Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._sending = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, message: Call | FromHost, descriptor: int | None = None) -> None:
        """Sends whole messages, one after the other.

        Raises:
            OSError: if the other end is gone.
        """
        with self._sending:
            body = self._encoder.encode(message)
            header = _HEADER.pack(len(body), descriptor is not None)
            if descriptor is None:
                self._end.sendall(header)
            else:
                sent = socket.send_fds(self._end, [header], [descriptor])
                self._end.sendall(header[sent:])
            self._end.sendall(body)

    def receive(self) -> Frame | None:
        """The next message; None when the other end is gone."""
        try:
            first, descriptors, _, _ = socket.recv_fds(self._end, _HEADER.size, 1)
            header = first + self._read(_HEADER.size - len(first)) if first else b""
            if len(header) < _HEADER.size:
                return None
            num_bytes, has_descriptor = _HEADER.unpack(header)
            body = self._read(num_bytes)
        except OSError:
            return None
        if len(body) < num_bytes:
            return None
        return Frame(body, descriptors[0] if has_descriptor else None)

    def _read(self, num_bytes: int) -> bytes:
        parts = bytearray()
        while len(parts) < num_bytes:
            part = self._end.recv(min(num_bytes - len(parts), 1 << 20))
            if not part:
                break
            parts += part
        return bytes(parts)

    def close(self) -> None:
        """Closes this end; the other receives None."""
        with contextlib.suppress(OSError):  # the other end may have gone first
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()


def memory_file(buffer: memoryview) -> int:
    """Descriptor of an unnamed file in memory that holds the bytes; the caller closes it."""
    descriptor = os.memfd_create("rl-weights")
    try:
        written = 0
        while written < len(buffer):
            written += os.write(descriptor, buffer[written : written + (1 << 30)])
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
