"""UpdateReport: what one update did, as plain numbers. Loads no torch."""

from dataclasses import dataclass

from policies.noise_scale import GradientNoise


@dataclass(frozen=True, kw_only=True)
class UpdateReport:
    """One update, in numbers; means are over its optimizer steps unless said otherwise.

    Attributes:
        loss: policy loss plus value loss.
        policy_loss: 0 when no policy step was taken.
        value_loss: of the normalized value; 0 when no value network is trained.
        entropy: mean over the batch's steps, before the update, in nats.
        entropy_end: the same during the last epoch; 0 when no policy step was taken.
        kl: mean KL(proximal policy, policy) over the last epoch, in nats; 0 when no policy step was taken.
        ess_fraction: effective sample size of the importance ratios over the number of steps; 1 when no step
            has a behavior log-probability.
        ratio_max: largest importance ratio, before the update.
        grad_norm: of the policy, before clipping.
        value_grad_norm: of the value network, before clipping.
        learning_rate: after scaling with the batch, before the effective sample size.
        policy_episodes: episodes that the policy learned from: all of them, the ones of the newest versions
            when the batch was split, or 0.
        policy_steps: optimizer steps of the policy.
        value_steps: optimizer steps of the value network.
        n_steps: steps of the batch, those of replayed episodes among them.
        n_episodes: episodes of the batch, replayed ones among them.
        unlogged_steps: steps whose behavior log-probability was neither logged nor recovered.
        return_mean: mean undiscounted return of the batch's new episodes.
        seconds: how long the update took.
        noise: of the policy's gradient; None unless the settings ask for it.
    """

    loss: float
    policy_loss: float
    value_loss: float
    entropy: float
    entropy_end: float
    kl: float
    ess_fraction: float
    ratio_max: float
    grad_norm: float
    value_grad_norm: float
    learning_rate: float
    policy_episodes: int
    policy_steps: int
    value_steps: int
    n_steps: int
    n_episodes: int
    unlogged_steps: int
    return_mean: float
    seconds: float
    noise: GradientNoise | None = None
