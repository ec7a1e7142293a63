"""SGLang's engine inside the host process, answering the calls of `messages`."""

# pyright: standard
# SGLang is annotated in part only.

import asyncio
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from queue import SimpleQueue

import msgspec
import numpy as np
import torch
from sglang.srt.entrypoints.engine import Engine as SGLang
from sglang.srt.entrypoints.engine import SchedulerInitResult
from sglang.srt.managers.io_struct import (
    GenerateReqInput,
    ReleaseMemoryOccupationReqInput,
    ResumeMemoryOccupationReqInput,
    UpdateWeightsFromTensorReqInput,
)
from sglang.srt.server_args import PortArgs, ServerArgs
from sglang.srt.utils import MultiprocessingSerializer
from transformers import AutoTokenizer

from rl_rollout.sglang.messages import (
    Abort,
    Answer,
    Call,
    Channel,
    CheckBuffer,
    Drain,
    Failure,
    Flush,
    Frame,
    Generate,
    JoinGroup,
    LetGo,
    Load,
    ProcessIds,
    ReadBack,
    Ready,
    Release,
    Resume,
    WireGeneration,
    WireRequest,
    WireSampling,
)
from rl_rollout.sglang.stops import without_end, without_stop_string
from rl_rollout.sglang.weight_orders import LOADER, HostBuffer, LoadBucket, Order, OrderAnswer, ReadTensors, as_one

logger = logging.getLogger(__name__)

type LoaderTask = LoadBucket | CheckBuffer | ReadTensors | JoinGroup | LetGo

# After its last answer the scheduler may still have to take its last batch apart.
_FLUSH_S = 10.0
_MAX_ANSWER_BYTES = 1 << 20


class RequestRefusedError(ValueError):
    """A request that SGLang would not take."""


class _ForkingSGLang(SGLang):
    """SGLang's engine, started faster.

    On a CPU its processes are forked from this one, which has imported everything already; on a GPU they are spawned,
    as CUDA needs it. Without a tokenizer there is nothing to detokenize, so that process is not started.
    """

    @classmethod
    def _launch_scheduler_processes(
        cls, server_args: ServerArgs, port_args: PortArgs, run_scheduler_process_func: Callable
    ) -> tuple[SchedulerInitResult, list | None]:
        if server_args.device == "cpu":
            multiprocessing.set_start_method("fork", force=True)
        return super()._launch_scheduler_processes(server_args, port_args, run_scheduler_process_func)

    @classmethod
    def _launch_detokenizer_subprocesses(
        cls, server_args: ServerArgs, port_args: PortArgs, run_detokenizer_process_func: Callable
    ) -> tuple[list, list[str]]:
        if server_args.skip_tokenizer_init:
            return [], []
        return super()._launch_detokenizer_subprocesses(server_args, port_args, run_detokenizer_process_func)


def _end_with_children(children: list[multiprocessing.Process]) -> None:
    """Ends the whole process group, this process too, as soon as one child is gone: the caller notices at once."""
    gone = multiprocessing.connection.wait([child.sentinel for child in children])
    for child in children:
        if child.sentinel in gone:
            child.join(1.0)
            logger.error("%s (process %d) ended with exit code %s", child.name, child.pid, child.exitcode)
    os.killpg(os.getpgrp(), signal.SIGKILL)


class ServedEngine:
    """Owns the SGLang engine and the tasks that answer calls. Everything runs in the main thread's event loop."""

    def __init__(
        self,
        server_args: Mapping[str, object],
        channel: Channel,
        frames: "SimpleQueue[Frame]",
        *,
        is_cpu: bool,
        imported_s: float,
    ) -> None:
        started = time.perf_counter()
        self._channel = channel
        self._frames = frames
        self._is_cpu = is_cpu
        self._engine = _ForkingSGLang(**server_args)
        manager = self._engine.tokenizer_manager
        assert manager is not None, "SGLang has one on the first machine, and this is it"
        self._manager = manager
        watchdog = manager._subprocess_watchdog
        if watchdog is not None:
            watchdog.stop()  # _end_with_children does its work sooner
        children = multiprocessing.active_children()
        threading.Thread(target=_end_with_children, args=(children,), name="children", daemon=True).start()
        launched_s = time.perf_counter() - started
        self._tokenizer = AutoTokenizer.from_pretrained(
            self._engine.server_args.tokenizer_path, trust_remote_code=self._engine.server_args.trust_remote_code
        )
        scheduler = self._engine._scheduler_init_result.scheduler_infos[0]
        self._request_ids: dict[int, list[str]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()
        channel.send(
            Ready(
                max_request_tokens=scheduler["max_req_input_len"],
                is_cpu=self._is_cpu,
                num_ranks=self._engine.server_args.tp_size,
                seconds={"import": imported_s, "launch": launched_s},
            )
        )

    def run(self) -> None:
        """Serves for ever; the process ends when the caller hangs up."""
        self._engine.loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        decoder = msgspec.msgpack.Decoder(Call)
        while True:
            frame = await asyncio.to_thread(self._frames.get)
            call = decoder.decode(frame.body)
            task = asyncio.create_task(self._answer(call, frame.descriptor))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, call: Call, descriptor: int | None) -> None:
        try:
            self._channel.send(await self._carry_out(call, descriptor))
        except RequestRefusedError as error:
            self._channel.send(Failure(call.call_id, str(error), is_request_error=True))
        except Exception as error:  # The caller gets whatever SGLang raised, and judges it.
            logger.exception("call %d (%s) failed", call.call_id, type(call.task).__name__)
            self._channel.send(Failure(call.call_id, f"{type(error).__name__}: {error}"))
        finally:
            if descriptor is not None:
                os.close(descriptor)

    async def _carry_out(self, call: Call, descriptor: int | None) -> Answer:
        match call.task:
            case Generate(requests):
                return Answer(call.call_id, generations=await self._generate(call.call_id, requests))
            case Abort(call_id):
                self._abort(call_id)
            case Drain():
                await self._idle.wait()
            case Load() | CheckBuffer() | ReadBack() | JoinGroup() | LetGo():
                answer = await self._order(_order_of(call.task, descriptor))
                return Answer(call.call_id, refusal=answer.refusal, seconds=answer.seconds)
            case Flush():
                await self._flush()
            case Release(tags):
                await self._release(tags)
            case Resume(tags):
                if not self._is_cpu:
                    await self._manager.resume_memory_occupation(ResumeMemoryOccupationReqInput(tags=tags))
            case ProcessIds():
                children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
                return Answer(call.call_id, process_ids=[os.getpid(), *children])
        return Answer(call.call_id)

    async def _generate(self, call_id: int, requests: list[WireRequest]) -> list[WireGeneration]:
        request_ids = [f"{call_id}-{position}" for position in range(len(requests))]
        batch = GenerateReqInput(
            input_ids=[np.frombuffer(request.tokens, np.int32).tolist() for request in requests],
            sampling_params=[_without_none(request.sampling) for request in requests],
            return_logprob=True,
            rid=request_ids,
        )
        self._request_ids[call_id] = request_ids
        self._idle.clear()
        try:
            answers = await anext(self._manager.generate_request(batch, None))
        except ValueError as error:
            self._abort(call_id)  # the batch's other requests
            raise RequestRefusedError(str(error)) from error
        finally:
            del self._request_ids[call_id]
            if not self._request_ids:
                self._idle.set()
        # Decoding leaves the interpreter to others: texts of calls that end together are made side by side, and beside
        # the requests that still run.
        return await asyncio.to_thread(self._to_wires, requests, answers)

    def _to_wires(self, requests: list[WireRequest], answers: Iterable) -> list[WireGeneration]:
        return [self._to_wire(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def _to_wire(self, request: WireRequest, answer: Mapping) -> WireGeneration:
        tokens, reason = answer["output_ids"], answer["meta_info"]["finish_reason"]
        logprobs = [logprob for logprob, *_ in answer["meta_info"].get("output_token_logprobs", [])]
        if reason["type"] == "abort":
            if reason.get("status_code") == HTTPStatus.BAD_REQUEST:
                raise RequestRefusedError(reason["message"])
            tokens, logprobs = tokens[: len(logprobs)], logprobs[: len(tokens)]
        if len(tokens) != len(logprobs):
            raise RuntimeError(f"SGLang gave {len(tokens)} tokens and {len(logprobs)} log-probabilities")
        return WireGeneration(
            tokens=np.array(tokens, np.int32).tobytes(),
            logprobs=np.array(logprobs, np.float32).tobytes(),
            text=self._text(request, tokens, reason.get("matched")),
            finish_reason=reason["type"],
        )

    def _text(self, request: WireRequest, tokens: list[int], matched: int | str | None) -> str:
        """The response decoded, without the end token or stop string that ended it."""
        response = np.frombuffer(request.tokens, np.int32)[request.response_start :].tolist()
        response += without_end(tokens, matched)
        text = self._tokenizer.decode(response, skip_special_tokens=request.skip_special_tokens)
        return without_stop_string(text, matched)

    def _abort(self, call_id: int | None) -> None:
        if call_id is None:
            self._manager.abort_request(abort_all=True)
        for request_id in self._request_ids.get(call_id, []) if call_id is not None else []:
            self._manager.abort_request(request_id)

    async def _order(self, task: LoaderTask) -> OrderAnswer:
        """What the weight loader in SGLang's scheduler processes answers, see `as_one`."""
        answer_files = [os.memfd_create("rl-answer") for _ in range(self._engine.server_args.tp_size)]
        try:
            payloads = [_payload(_for_rank(task, rank), file) for rank, file in enumerate(answer_files)]
            request = UpdateWeightsFromTensorReqInput(
                serialized_named_tensors=payloads, load_format=LOADER, flush_cache=False
            )
            is_done, message = await self._manager.update_weights_from_tensor(request)
            if not is_done:
                raise RuntimeError(message)
            answers = [
                msgspec.json.decode(os.pread(answer_file, _MAX_ANSWER_BYTES, 0), type=OrderAnswer)
                for answer_file in answer_files
            ]
        finally:
            for answer_file in answer_files:
                os.close(answer_file)
        return as_one(answers)

    async def _flush(self) -> None:
        result = await self._manager.flush_cache(timeout_s=_FLUSH_S)
        if not result.success:
            raise RuntimeError(f"SGLang did not flush its cache: {result}")

    async def _release(self, tags: list[str]) -> None:
        """The scheduler ends if it is told to release while it still has a batch, so it is flushed before."""
        await self._idle.wait()
        await self._flush()
        if not self._is_cpu:
            await self._manager.release_memory_occupation(ReleaseMemoryOccupationReqInput(tags=tags))


def _order_of(task: Load | CheckBuffer | ReadBack | JoinGroup | LetGo, descriptor: int | None) -> LoaderTask:
    match task:
        case Load(specs, checksum, num_bytes, buffer):
            return LoadBucket(specs, checksum, buffer or _file(descriptor, num_bytes))
        case ReadBack(specs, num_bytes):
            return ReadTensors(specs, _file(descriptor, num_bytes))
        case _:
            return task


def _file(descriptor: int | None, num_bytes: int) -> HostBuffer:
    return HostBuffer(f"/proc/{os.getpid()}/fd/{descriptor}", num_bytes)


def _for_rank(task: LoaderTask, rank: int) -> LoaderTask:
    """The task as one of SGLang's processes gets it."""
    if isinstance(task, JoinGroup):
        return msgspec.structs.replace(task, first_rank=task.first_rank + rank)
    return task


def _payload(task: LoaderTask, answer_file: int) -> bytes:
    """The order as SGLang carries it: named tensors, pickled."""
    order = msgspec.json.encode(Order(task, f"/proc/{os.getpid()}/fd/{answer_file}")).decode()
    pickled = MultiprocessingSerializer.serialize([(order, torch.empty(0))])
    assert isinstance(pickled, bytes)
    return pickled


def _without_none(sampling: WireSampling) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(sampling).items() if value is not None}
