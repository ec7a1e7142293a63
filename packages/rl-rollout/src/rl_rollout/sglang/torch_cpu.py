"""The platform class that `cpu_platform.activate` names. Apart from it, because SGLang must be half imported before."""

from typing import TYPE_CHECKING

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.interface import PlatformEnum, SRTPlatform

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

# KV cache tokens where the user gives no number: SGLang would otherwise size the cache by the machine's whole memory.
_DEFAULT_MAX_TOTAL_TOKENS = 32768


class TorchCpuPlatform(CpuDeviceMixin, SRTPlatform):  # pyright: ignore[reportIncompatibleMethodOverride]  SGLang's own mix
    """SGLang on plain PyTorch: native layers, SDPA attention, sampling that honours each request's seed."""

    _enum = PlatformEnum.OOT  # selects forward_native in every layer

    def apply_server_args_defaults(self, server_args: "ServerArgs") -> None:
        """Chooses the only attention and sampling that this platform has; SGLang has put its own defaults there."""
        server_args.attention_backend = "torch_native"
        server_args.sampling_backend = "seeded"
        if server_args.max_total_tokens is None:
            server_args.max_total_tokens = _DEFAULT_MAX_TOTAL_TOKENS

    def get_default_attention_backend(self) -> str:
        """Name of the SDPA backend."""
        return "torch_native"

    def get_mha_kv_pool_cls(self) -> type:
        """SGLang's plain KV cache."""
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        return MHATokenToKVPool

    def get_paged_allocator_cls(self) -> type:
        """SGLang's plain page allocator."""
        from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator

        return PagedTokenToKVPoolAllocator

    def is_pin_memory_available(self, device: object = None) -> bool:
        """Never: there is no device to copy to."""
        return False

    def empty_cache(self) -> None:
        """Nothing. SGLang's own collects garbage: 0.1 s at each weight update, for no device's relief."""

    def init_backend(self) -> None:
        """Registers the sampling backend "seeded" in the process that will sample."""
        from rl_rollout.sglang.seeded_sampler import register

        register()
