"""The knobs of the update."""

import dataclasses

from ml_collections import ConfigDict

from srt_jax.rl.collate import Layout


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """The knobs of the update; names as in the config."""

    layout: Layout
    epochs_per_step: int = 1
    objective: str = "policy_gradient"
    advantage: str = "rloo"
    kl: str = "k3"
    kl_coef: float = 0.001
    kl_in: str = "reward"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    tis_cap: float = 0.0
    entropy_coef: float = 0.0
    loss_aggregation: str = "token-mean"
    loss_scale: float = 0.0  # needed by seq-mean-token-sum-norm only
    unlabelled: str = "discard"
    old_logprobs: str = "trainer"
    head_chunk_tokens: int = 4096

    @classmethod
    def of(cls, config: ConfigDict) -> "UpdateConfig":
        """From the config of an experiment."""
        rl = (
            "objective",
            "advantage",
            "kl",
            "kl_coef",
            "kl_in",
            "clip_low",
            "clip_high",
            "dual_clip",
            "tis_cap",
            "entropy_coef",
            "loss_aggregation",
        )
        return cls(
            Layout.of(config.batch),
            epochs_per_step=config.batch.epochs_per_step,
            loss_scale=config.rl.loss_scale or config.batch.max_response_tokens,
            unlabelled=config.labels.unlabelled,
            old_logprobs=config.rollout.old_logprobs,
            head_chunk_tokens=config.model.head_chunk_tokens,
            **{name: config.rl[name] for name in rl},
        )

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates of one step."""
        return self.layout.minibatches_per_step * self.epochs_per_step

    @property
    def kl_in_reward(self) -> bool:
        """Does the KL to the reference count in the reward?"""
        return self.kl_coef > 0 and self.kl_in == "reward"

    @property
    def scores_policy(self) -> bool:
        """Is there a forward pass of the policy before the first update?"""
        old = self.kl_in_reward or (self.objective == "policy_gradient" and self.updates_per_step > 1)
        return old and self.old_logprobs == "trainer"

    @property
    def scores_reference(self) -> bool:
        """Is there a forward pass of the reference?"""
        return self.kl_coef > 0
