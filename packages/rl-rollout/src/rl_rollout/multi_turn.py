"""A sample of several turns: the policy calls a tool, reads what it gives, and goes on."""

from dataclasses import replace
from typing import Protocol

import numpy as np

from rl_data import FinishReason, Prompt, Sample, VersionSpan
from rl_rollout.engine import GenerateRequest
from rl_rollout.generate import GenerateContext, turn_seed


class Encoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`."""
        ...


class Tool(Protocol):
    """Something that the policy can ask."""

    async def reply(self, turn_text: str) -> str | None:
        """What the policy reads next, template tokens included; None if the turn asks for nothing."""
        ...


class MultiTurn:
    """A sample function for `per_sample`: turns of the policy, with the tool's replies between them.

    Tokens that the policy did not write are in no span, have loss_mask False and log-probability 0. The response ends
    when a turn asks the tool for nothing, is cut off, or leaves no room within `SamplingParams.max_new_tokens`, which
    bounds all turns and replies together; a reply that does not fit is left out.

    Args:
        tool: answers the turns.
        tokenizer: turns replies into tokens.
        max_turns: turns of the policy at most.

    Example:
        >>> rollout = Rollout(config, pool, grader, generate=per_sample(MultiTurn(calculator, tokenizer, max_turns=4)))
    """

    def __init__(self, tool: Tool, tokenizer: Encoder, *, max_turns: int) -> None:
        self._tool = tool
        self._tokenizer = tokenizer
        self._max_turns = max_turns

    async def __call__(self, prompt: Prompt, index: int, seed: int, context: GenerateContext) -> Sample:
        """See `SampleFunction`."""
        start = prompt.tokens.size
        limit = start + context.sampling.max_new_tokens
        tokens, logprobs = prompt.tokens.tolist(), [0.0] * start
        mask, spans, texts = [False] * start, list[VersionSpan](), list[str]()
        num_turns = 0
        while True:
            request = GenerateRequest(
                request_id=f"{prompt.group_id}/{index}/{num_turns}",
                tokens=np.array(tokens, np.int32),
                sampling=replace(context.sampling, max_new_tokens=limit - len(tokens)),
                seed=turn_seed(seed, num_turns),
            )
            [answer] = await context.engines.generate([request], timeout_s=context.timeout_s)
            if answer.tokens.size:
                spans.append(VersionSpan(len(tokens), len(tokens) + answer.tokens.size, answer.policy_version))
            tokens += answer.tokens.tolist()
            logprobs += answer.logprobs.tolist()
            mask += [True] * answer.tokens.size
            texts.append(answer.text)
            reason = answer.finish_reason
            num_turns += 1
            if reason is not FinishReason.STOP or num_turns == self._max_turns:
                break
            reply = await self._tool.reply(answer.text)
            if reply is None:
                break
            reply_tokens = self._tokenizer.encode(reply, add_special_tokens=False)
            if len(tokens) + len(reply_tokens) >= limit:
                reason = FinishReason.LENGTH
                break
            tokens += reply_tokens
            logprobs += [0.0] * len(reply_tokens)
            mask += [False] * len(reply_tokens)
            texts.append(reply)
        return Sample(
            group_id=prompt.group_id,
            index=index,
            tokens=np.array(tokens, np.int32),
            prompt_length=start,
            loss_mask=np.array(mask, np.bool_),
            rollout_logprobs=np.array(logprobs, np.float32),
            spans=tuple(spans),
            finish_reason=reason,
            response_text="".join(texts),
            label=prompt.label,
            metadata={**prompt.metadata, "num_turns": num_turns},
        )
