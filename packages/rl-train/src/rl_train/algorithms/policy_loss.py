"""The policy loss: objective, corrections and regularisers put together as the configuration says."""

from dataclasses import dataclass

from torch import Tensor

from rl_train.algorithms.cispo import cispo_term
from rl_train.algorithms.clipped import PolicyTerm, clipped_policy_term, ratio_from_log
from rl_train.algorithms.config import AlgorithmConfig
from rl_train.algorithms.gspo import sequence_log_ratio
from rl_train.algorithms.importance import importance_weights, is_on_policy_enough, is_within, policy_ratio
from rl_train.algorithms.kl import kl_estimate
from rl_train.algorithms.sequences import Sequences
from rl_train.algorithms.types import LossFunction, LossInputs, LossOutput, keep


def make_loss(config: AlgorithmConfig) -> LossFunction:
    """The policy loss of an algorithm. It can be pickled."""
    return PolicyLoss(config)


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Token loss = correction x policy term - entropy_coef x entropy + kl_loss_coef x divergence. Stateless.

    The correction (importance weight, rejection, sequence mask) touches the policy term alone, and what it drops stays
    in the denominators that the loss weights hold: a step with many dropped tokens is a smaller step, not a noisier
    one. slime's vanilla TIS, IcePop and OPSM do the same.

    Metrics, summed over trained tokens:
        logprob_abs_diff: |old policy - engine|, the mismatch between trainer and engine.
        ppo_kl: old minus present log-probability.
        ratio: present over old policy (the sequence's under gspo). clip_fraction: tokens that a clip bound decides,
            that of dual clip included, which slime leaves out.
        entropy, kl: where the inputs or the configuration bring them.
        tis_ratio, tis_clip_fraction: importance weight before its bounds, tokens that the bounds change.
        rs_drop_fraction, opsm_drop_fraction: tokens dropped by --use-rs and --use-opsm.
    """

    config: AlgorithmConfig

    @property
    def needs_entropy(self) -> bool:
        """Whether the entropy bonus is on."""
        return self.config.needs_entropy

    def __call__(self, inputs: LossInputs, /) -> LossOutput:
        """The loss and metrics of one micro-batch.

        Raises:
            ValueError: if the configuration needs the reference or the entropy and it is not given.
        """
        clean = inputs.with_zeros_where_untrained()
        sequences = Sequences.of(clean.cu_seqlens, clean.trained, clean.logprobs.dtype)
        present = clean.logprobs.detach()
        trainer_old = present if clean.old_logprobs is None else clean.old_logprobs
        old = clean.rollout_logprobs if self.config.use_rollout_logprobs else trainer_old
        log_ratio = clean.logprobs - old

        term, metrics = self._policy_term(clean, log_ratio, sequences)
        metrics["logprob_abs_diff"] = (trainer_old - clean.rollout_logprobs).abs()
        metrics["ppo_kl"] = old - present
        correction = self._correction(clean, trainer_old, log_ratio, sequences, metrics)
        token_loss = term.loss if correction is None else correction * term.loss
        token_loss = self._regularise(token_loss, clean, log_ratio, metrics)

        sums = {name: keep(clean.trained, values.detach().to(present.dtype)).sum() for name, values in metrics.items()}
        return LossOutput((clean.loss_weights * token_loss).sum(), sums)

    def _policy_term(
        self, clean: LossInputs, log_ratio: Tensor, sequences: Sequences
    ) -> tuple[PolicyTerm, dict[str, Tensor]]:
        config = self.config
        if config.advantage_estimator == "gspo":
            log_ratio = sequence_log_ratio(log_ratio, sequences)
        bounds = {"eps_low": config.eps_clip, "eps_high": config.clip_high}
        if config.advantage_estimator == "cispo":
            term = cispo_term(log_ratio, clean.logprobs, clean.advantages, **bounds)
        else:
            term = clipped_policy_term(log_ratio, clean.advantages, dual_clip=config.eps_clip_c, **bounds)
        return term, {"ratio": ratio_from_log(log_ratio.detach()), "clip_fraction": term.is_clipped}

    def _correction(
        self,
        clean: LossInputs,
        trainer_old: Tensor,
        log_ratio: Tensor,
        sequences: Sequences,
        metrics: dict[str, Tensor],
    ) -> Tensor | None:
        """[T] factor of the policy term, or None for 1 everywhere; adds its metrics."""
        config = self.config
        factors: list[Tensor] = []
        mismatch = trainer_old - clean.rollout_logprobs
        if config.use_tis:
            ratio = policy_ratio(mismatch, config.tis_level, sequences)
            tis = importance_weights(ratio, config.tis_mode, low=config.tis_clip_low, high=config.tis_clip)
            metrics |= {"tis_ratio": tis.ratio, "tis_clip_fraction": tis.is_clipped}
            factors.append(tis.weights)
        if config.use_rs:
            assert config.rs_lower_bound is not None  # the configuration checks both
            assert config.rs_upper_bound is not None
            ratio = policy_ratio(mismatch, config.rs_level, sequences)
            kept = is_within(ratio, low=config.rs_lower_bound, high=config.rs_upper_bound)
            metrics["rs_drop_fraction"] = ~kept
            factors.append(kept)
        if config.use_opsm:
            kept = is_on_policy_enough(log_ratio, clean.advantages, sequences, delta=config.opsm_delta)
            metrics["opsm_drop_fraction"] = ~kept
            factors.append(kept)
        if not factors:
            return None
        correction = factors[0].to(trainer_old.dtype)
        for factor in factors[1:]:
            correction = correction * factor
        return correction

    def _regularise(
        self, token_loss: Tensor, clean: LossInputs, log_ratio: Tensor, metrics: dict[str, Tensor]
    ) -> Tensor:
        """[T] token loss with entropy bonus and divergence; adds their metrics."""
        config = self.config
        if clean.entropy is not None:
            metrics["entropy"] = clean.entropy
        if config.entropy_coef != 0:
            if clean.entropy is None:
                raise ValueError(f"loss: --entropy-coef {config.entropy_coef} needs the entropy, got None")
            token_loss = token_loss - config.entropy_coef * clean.entropy
        if config.use_kl_loss:
            if clean.ref_logprobs is None:
                raise ValueError("loss: --use-kl-loss needs log-probabilities of the reference policy, got None")
            ratio = ratio_from_log(log_ratio) if config.use_unbiased_kl else None
            kl = kl_estimate(clean.logprobs, clean.ref_logprobs, config.kl_loss_type, ratio)
            metrics["kl"] = kl
            if config.kl_loss_coef != 0:
                token_loss = token_loss + config.kl_loss_coef * kl
        return token_loss
