"""Update-side rivals of SaEI, written from their formulas: loops over responses and tokens, one number at a time.

Nothing here uses the library. A token is a pair ``(r, t)`` of its response and its place; what a method says about
tokens is a dictionary from such pairs to numbers. ``by_token`` and ``by_response`` make one loss of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Token = tuple[int, int]
Values = dict[Token, Tensor]
Numbers = dict[Token, float]


@dataclass(frozen=True, eq=False)
class Batch:
    """R responses of at most T tokens over V ids, in float64.

    Attributes:
        logits_RTV: The current policy's, with graph.
        ids_RT: The tokens.
        mask_RT: True on the tokens that are trained.
        old_logp_RT: Log-probabilities before the update.
        advantage_RT: Advantages.
        other_logits_VIEWS_RTV: What the current policy says under other views, with graph.
    """

    logits_RTV: Tensor
    ids_RT: Tensor
    mask_RT: Tensor
    old_logp_RT: Tensor
    advantage_RT: Tensor
    other_logits_VIEWS_RTV: Sequence[Tensor] = ()

    def tokens(self) -> Iterator[Token]:
        for r in range(len(self.mask_RT)):
            for t in range(self.mask_RT.shape[1]):
                if self.mask_RT[r, t]:
                    yield r, t

    def distribution(self, token: Token, view: int | None = None) -> Tensor:
        """Log-probabilities of all ids at a token."""
        return (self.logits_RTV if view is None else self.other_logits_VIEWS_RTV[view])[token].log_softmax(-1)

    def logp(self, token: Token, view: int | None = None) -> Tensor:
        return self.distribution(token, view)[self.ids_RT[token]]

    def ratio(self, token: Token) -> Tensor:
        return (self.logp(token) - self.old_logp_RT[token]).exp()

    def entropy(self, token: Token) -> Tensor:
        logp_V = self.distribution(token)
        possible = logp_V > -1e6
        return -(logp_V[possible].exp() * logp_V[possible]).sum()


# --- From tokens to a loss


def by_token(values: Mapping[Token, Tensor], n_tokens: int | None = None) -> Tensor:
    """The mean over all tokens (https://arxiv.org/abs/2503.14476, section 3.3), or their sum over a given number."""
    return sum(values.values(), start=torch.zeros((), dtype=torch.float64)) / (n_tokens or len(values))


def by_response(values: Mapping[Token, Tensor], n_responses: int, lengths: Mapping[int, int] | None = None) -> Tensor:
    """The mean over responses of the mean over their tokens (https://arxiv.org/abs/2402.03300, equation 3)."""
    total = torch.zeros((), dtype=torch.float64)
    for r in {r for r, _ in values}:
        own = [value for (response, _), value in values.items() if response == r]
        total = total + sum(own, start=torch.zeros((), dtype=torch.float64)) / (lengths[r] if lengths else len(own))
    return total / n_responses


def clipped(batch: Batch, low: float, high: float) -> Values:
    """PPO's ``-min(ratio A, clip(ratio) A)`` (https://arxiv.org/abs/1707.06347, equation 7)."""
    losses = {}
    for token in batch.tokens():
        ratio, advantage = batch.ratio(token), batch.advantage_RT[token]
        losses[token] = -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    return losses


def cut_by_clip(batch: Batch, low: float, high: float) -> set[Token]:
    """Tokens whose gradient PPO's clip has cut off."""
    cut = set()
    for token in batch.tokens():
        ratio, advantage = batch.ratio(token).item(), batch.advantage_RT[token].item()
        if min(max(ratio, 1 - low), 1 + high) * advantage < ratio * advantage:
            cut.add(token)
    return cut


def top(scores: Mapping[Token, float], count: int) -> set[Token]:
    """The highest of some tokens; of equal ones the first."""
    return set(sorted(scores, key=lambda token: (-scores[token], token))[:count])


# --- Objectives


def covariances(batch: Batch) -> Numbers:
    """``(A - mean A)(log p - mean log p)`` per token, means over all tokens, with the current policy's log p.

    https://arxiv.org/abs/2505.22617, equations 9 and 10, and verl's ``compute_policy_loss_kl_cov``.
    """
    tokens = list(batch.tokens())
    advantages = [batch.advantage_RT[token].item() for token in tokens]
    logps = [batch.logp(token).item() for token in tokens]
    mean_advantage, mean_logp = sum(advantages) / len(tokens), sum(logps) / len(tokens)
    return {
        token: (advantage - mean_advantage) * (logp - mean_logp)
        for token, advantage, logp in zip(tokens, advantages, logps, strict=True)
    }


def kl_cov(batch: Batch, share: float, coefficient: float) -> Values:
    """``-A ratio``, plus ``coefficient |log p - old log p|`` on the ``max(1, int(share n))`` highest covariances.

    https://arxiv.org/abs/2505.22617, equation 13; verl's ``compute_policy_loss_kl_cov``, which clips nothing.
    """
    covariance = covariances(batch)
    punished = top(covariance, max(1, int(share * len(covariance))))
    losses = {}
    for token in batch.tokens():
        losses[token] = -batch.advantage_RT[token] * batch.ratio(token)
        if token in punished:
            losses[token] = losses[token] + coefficient * (batch.logp(token) - batch.old_logp_RT[token]).abs()
    return losses


def clip_cov_candidates(batch: Batch, low: float, high: float, clip: tuple[float, float] | None = None) -> set[Token]:
    """Tokens with a covariance strictly between ``low`` and ``high`` that the PPO clip has not cut.

    https://arxiv.org/abs/2505.22617, equation 11; verl's ``compute_policy_loss_clip_cov`` draws
    ``max(1, int(ratio n))`` of them, or all where there are fewer, and gives them the loss 0.
    """
    cut = cut_by_clip(batch, *clip) if clip else set()
    return {token for token, value in covariances(batch).items() if low < value < high and token not in cut}


def cispo(batch: Batch, low: float | None, high: float) -> Values:
    """``-sg(clip(ratio)) A log p``, the clip open below without ``low`` (https://arxiv.org/abs/2506.13585, 3.1).

    verl clips at ``1 - low`` and ``1 + high``; TRL above only, at its ``epsilon_high`` itself, not 1 more.
    """
    losses = {}
    for token in batch.tokens():
        weight = min(batch.ratio(token).item(), 1 + high)
        if low is not None:
            weight = max(weight, 1 - low)
        losses[token] = -weight * batch.advantage_RT[token] * batch.logp(token)
    return losses


def sapo(batch: Batch, positive: float, negative: float) -> Values:
    """``-(4/τ) sigmoid(τ (ratio - 1)) A``, τ by the advantage's sign (https://arxiv.org/abs/2511.20347, equation 5).

    A is 0 where neither sign applies, so that it does not matter whose τ that is.
    """
    losses = {}
    for token in batch.tokens():
        advantage = batch.advantage_RT[token]
        temperature = positive if advantage > 0 else negative
        gate = 4 / temperature / (1 + torch.exp(-temperature * (batch.ratio(token) - 1)))
        losses[token] = -gate * advantage
    return losses


# --- Weights


def forking_in_batch(entropy: Mapping[Token, float], share: float) -> set[Token]:
    """The ``ceil(share n)`` tokens of highest entropy of the batch (https://arxiv.org/abs/2506.01939, equation 5).

    The ceiling is the authors' ``get_global_entropy_top_mask``; the mean is over the kept tokens alone.
    """
    return top(entropy, max(1, math.ceil(share * len(entropy) - 1e-9)))


def forking_in_response(entropy: Mapping[Token, float], share: float) -> set[Token]:
    """The ``ceil(share L)`` tokens of highest entropy of each response, as VPPO's ``use_vppo_on_entropy`` counts."""
    kept: set[Token] = set()
    for r in {r for r, _ in entropy}:
        own = {token: value for token, value in entropy.items() if token[0] == r}
        kept |= top(own, math.ceil(share * len(own) - 1e-9))
    return kept


def steer(pi: Sequence[float], old: Sequence[float], entropy: Sequence[float], advantage: Sequence[float],
          lowest: float, floor: float = 0.0) -> list[float]:  # fmt: skip
    """``exp(-k |Ω|)`` with ``Ω = (A / π_old) π (1 - π)(ln π + H)`` and k such that the largest |Ω| gets ``lowest``.

    https://arxiv.org/abs/2510.10150, equation 9; k and the ``floor`` under the largest |Ω| (.02) are those of the
    authors' ``compute_token_weights``, which takes the micro-batch for the batch and π of the current policy.
    """
    changes = [
        abs(a / o * p * (1 - p) * (math.log(p) + h)) for p, o, h, a in zip(pi, old, entropy, advantage, strict=True)
    ]
    k = -math.log(lowest) / max(max(changes), floor) if max(max(changes), floor) > 0 else 0.0
    return [math.exp(-k * change) for change in changes]


def k3(logp: float, other: float, highest: float = math.inf) -> float:
    """Schulman's estimate of ``KL(p ‖ other)`` on a token drawn from p, ``exp(d) - d - 1``, d = other - logp."""
    d = min(max(other - logp, -20.0), 20.0)
    return min(math.exp(d) - d - 1, highest)


def vppo(sensitivity: Mapping[Token, float], share: float, lowest: float) -> Numbers:
    """The weight of each token: 0 outside the ``ceil(share L)`` most sensitive of its response, else the response's.

    A response's is its mean sensitivity, scaled to [0, 1] over the batch, then to ``lowest`` and up, so that the mean
    over the responses is 1. https://arxiv.org/abs/2510.09285, equations 7 to 9, and the authors' ``dp_actor``.
    """
    responses = sorted({r for r, _ in sensitivity})
    means = {}
    for r in responses:
        own = [value for token, value in sensitivity.items() if token[0] == r]
        means[r] = sum(own) / len(own)
    least, most = min(means.values()), max(means.values())
    factors = dict.fromkeys(responses, 1.0)
    if most - least > 1e-6:
        scaled = {r: (means[r] - least) / (most - least) for r in responses}
        slope = (1 - lowest) / (sum(scaled.values()) / len(responses) + 1e-8)
        factors = {r: lowest + slope * scaled[r] for r in responses}
    kept = forking_in_response(sensitivity, share)
    return {token: factors[token[0]] if token in kept else 0.0 for token in sensitivity}


# --- Advantages


def normalised(rewards: Sequence[float], epsilon: float = 1e-4) -> list[float]:
    """``(r - mean) / (std + epsilon)``, std with n - 1."""
    mean = sum(rewards) / len(rewards)
    variance = sum((reward - mean) ** 2 for reward in rewards) / max(1, len(rewards) - 1)
    return [(reward - mean) / (math.sqrt(variance) + epsilon) for reward in rewards]


def entropy_shaped(advantage: float, entropy: Sequence[float], alpha: float, kappa: float) -> list[float]:
    """``A + min(α H, |A| / κ)`` per token (https://arxiv.org/abs/2506.14758, equation 6)."""
    return [advantage + min(alpha * h, abs(advantage) / kappa) for h in entropy]


def quantile_baseline(rewards: Sequence[float], share: float, *, interpolated: bool) -> float:
    """The K-quantile of a group's rewards (https://arxiv.org/abs/2509.22611).

    The theory takes an order statistic, the smallest x with ``F(x) >= K``; ``torch.quantile`` goes on a straight line
    from one value to the next.
    """
    values = sorted(rewards)
    if interpolated:
        place = share * (len(values) - 1)
        below = math.floor(place)
        above = min(below + 1, len(values) - 1)
        return values[below] + (place - below) * (values[above] - values[below])
    for x in values:
        if sum(value <= x for value in values) / len(values) >= share - 1e-12:
            return x
    raise AssertionError("a distribution function reaches 1")


def pass_at_k(right: Sequence[bool], k: int) -> list[float]:
    """The analytical advantage of pass@k training (https://arxiv.org/abs/2508.10751, equations 14 and 15)."""
    n, c = len(right), sum(right)
    rho = 1 - math.comb(n - c, k) / math.comb(n, k)
    sigma = math.sqrt(rho * (1 - rho))
    if sigma == 0:
        return [0.0] * n
    wrong_with_wrong = math.comb(n - c - 1, k - 1) / math.comb(n - 1, k - 1) if c < n else 0.0
    return [(1 - rho) / sigma if each else (1 - rho - wrong_with_wrong) / sigma for each in right]


def grpo_passk(rewards: Sequence[float], *, scaled: bool, epsilon: float = 1e-6) -> list[float]:
    """The best of a group gets its lead over the second, all others 0 (https://arxiv.org/abs/2503.19595).

    verl's ``compute_grpo_passk_outcome_advantage``, which divides by the group's standard deviation by default.
    """
    order = sorted(range(len(rewards)), key=lambda n: -rewards[n])
    lead = rewards[order[0]] - rewards[order[1]]
    if scaled:
        mean = sum(rewards) / len(rewards)
        lead /= math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)) + epsilon
    return [lead if n == order[0] else 0.0 for n in range(len(rewards))]


def unlikeliness(rewards: Sequence[float], right: Sequence[bool], logp: Sequence[float], beta: float) -> list[float]:
    """Rewards with those of right answers times ``1 - β rank / G``; rank 1 for the least likely response.

    https://arxiv.org/abs/2506.02355, section 4. The authors' code counts ranks from 0 and takes the mean log p of
    tokens for a response's.
    """
    order = sorted(range(len(logp)), key=lambda n: (logp[n], n))
    rank = {n: place + 1 for place, n in enumerate(order)}
    return [
        reward * (1 - beta * rank[n] / len(logp)) if right[n] else reward
        for n, reward in enumerate(rewards)
    ]  # fmt: skip


def gtpo_rewards(rewards: Sequence[float], right: Sequence[bool], entropy: Sequence[Sequence[float]], *, base: float,
                 bonus: float, floor: float) -> list[list[float]]:  # fmt: skip
    """Token rewards: ``α1 r + α2 d_t H / ΣH`` for right responses, ``-α1 - α2 h_t (1/H) / Σ(1/H)`` for wrong ones.

    Sums go over the responses of the same kind that still run at t, whose number is d_t or h_t
    (https://arxiv.org/abs/2508.04349, equations 3 and 5). The floor under an H that is divided by is the library's.
    """
    made = []
    for n, own in enumerate(entropy):
        row = []
        for t in range(len(own)):
            peers = [m for m in range(len(entropy)) if right[m] == right[n] and t < len(entropy[m])]
            of_peers = [entropy[m][t] if right[n] else 1 / max(entropy[m][t], floor) for m in peers]
            extra = bonus * len(peers) * of_peers[peers.index(n)] / sum(of_peers) if sum(of_peers) else 0.0
            row.append(base * rewards[n] + extra if right[n] else -base - extra)
        made.append(row)
    return made


def grpo_s_rewards(rewards: Sequence[float], right: Sequence[bool], entropy: Sequence[Sequence[float]], *, base: float,
                   bonus: float, floor: float) -> list[float]:  # fmt: skip
    """The same per response, with the mean entropies of responses (https://arxiv.org/abs/2508.04349, 8 and 9)."""
    means = [[sum(own) / len(own)] for own in entropy]
    return [row[0] for row in gtpo_rewards(rewards, right, means, base=base, bonus=bonus, floor=floor)]


def normalised_rows(rows: Sequence[Sequence[float]], kinds: Sequence[object]) -> list[list[float]]:
    """Token rewards minus their mean, divided by their spread, over all tokens of the responses of a kind."""
    made = [list(row) for row in rows]
    for kind in set(kinds):
        members = [n for n in range(len(rows)) if kinds[n] == kind]
        scaled = iter(normalised([value for n in members for value in rows[n]]))
        for n in members:
            made[n] = [next(scaled) for _ in rows[n]]
    return made


def trust(rewards: Sequence[float], noise: Sequence[float], alpha: float, observation: float) -> list[float]:
    """The posterior of a prior, ``1 - noise``, and the observed reward, both normalised in the group, normalised.

    ``posterior = reward + K (prior - reward)``, ``K = P / (P + R)``, ``P = α / (σ² + α)``, σ the standard deviation of
    the rewards. https://arxiv.org/abs/2510.21122, section 3.3, and the authors' ``noisy_grpo_trainer`` (α .01, R .1).
    """
    mean = sum(rewards) / len(rewards)
    variance = sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)
    p = alpha / (variance + alpha)
    gain = p / (p + observation)
    observed, prior = normalised(rewards), normalised([1 - level for level in noise])
    return normalised([o + gain * (q - o) for o, q in zip(observed, prior, strict=True)])


def symmetric_kl(logp_V: Tensor, other_V: Tensor) -> Tensor:
    """``(KL(p ‖ q) + KL(q ‖ p)) / 2`` over all ids."""
    return (logp_V.exp() * (logp_V - other_V) + other_V.exp() * (other_V - logp_V)).sum() / 2


def vogue(advantage: float, divergence: Sequence[float], alpha: float, beta: float) -> list[float]:
    """``A + min(α KL, |A| / β)`` per token (https://arxiv.org/abs/2510.01444v3, section 2: α 1, β 2).

    The formula is that of ``entropy_shaped`` with the symmetric KL between raw and noisy view in the entropy's place.
    """
    return [advantage + min(alpha * u, abs(advantage) / beta) for u in divergence]


# --- Terms


def adaptive_coefficients(entropies: Sequence[float], target: float | Callable[[int], float], delta: float,
                          highest: float, start: float = 0.0) -> list[tuple[float, float]]:  # fmt: skip
    """After each measured entropy: the coefficient, and what of it is applied, which is 0 at the target and above.

    Skywork-OR1 (https://arxiv.org/abs/2505.22312, equation 4) and its ``EntController``. TRL does the same with
    ``<=`` for ``<``.
    """
    value, series = start, []
    for number, entropy in enumerate(entropies):
        goal = target(number) if callable(target) else target
        value = min(max(value + (delta if entropy < goal else -delta), 0.0), highest)
        series.append((value, value if entropy < goal else 0.0))
    return series


def entropy_of(logits_V: Tensor, kept: Sequence[int]) -> Tensor:
    """Entropy of the distribution over some ids alone."""
    if not kept:
        return torch.zeros((), dtype=logits_V.dtype)
    logp = logits_V[torch.tensor(kept)].log_softmax(-1)
    possible = logp > -1e6
    return -(logp[possible].exp() * logp[possible]).sum()


def clamped_ids(logits_V: Tensor, share: float) -> list[int]:
    """All ids but the ``int(share V)`` least likely (AEnt, https://arxiv.org/abs/2509.03493, section 4; AReaL)."""
    order = sorted(range(len(logits_V)), key=lambda v: logits_V[v].item())
    return sorted(order[int(share * len(logits_V)) :])


def nucleus_ids(logits_V: Tensor, mass: float, most: int, *, crossing: bool) -> list[int]:
    """The most likely ids whose probabilities add up to ``mass``, with or without the one that crosses it.

    SIREN (https://arxiv.org/abs/2509.25133, equation 6) takes the smallest set that reaches the mass, which has the
    crossing id; the authors' ``efficient_top_p_sampling`` stops before it.
    """
    probabilities = logits_V.detach().softmax(-1)
    kept, total = [], 0.0
    for v in sorted(range(len(logits_V)), key=lambda v: (-logits_V[v].item(), v))[:most]:
        reached = total + probabilities[v].item() >= mass
        if not reached or crossing:
            kept.append(v)
        if reached:
            break
        total += probabilities[v].item()
    return kept


def above_quantile(entropy: Mapping[Token, float], share: float) -> set[Token]:
    """In each response the tokens above the ``share``-quantile, interpolated, of its entropies (SIREN's mask)."""
    kept = set()
    for r in {r for r, _ in entropy}:
        own = {token: value for token, value in entropy.items() if token[0] == r}
        threshold = quantile_baseline(list(own.values()), share, interpolated=True)
        kept |= {token for token, value in own.items() if value > threshold}
    return kept


def papo_at(batch: Batch, token: Token, highest: float = math.inf) -> Tensor:
    """k3 of ``KL(original ‖ masked image)`` at a token, to be raised (https://arxiv.org/abs/2507.06448, equation 3).

    By default the authors do not compute the masked log-probabilities again in the update, so that these have no
    gradient; ``RECOMPUTE_AUG_LOG_PROBS`` in their ``dp_actor`` is the other form.
    """
    d = (batch.logp(token, 0) - batch.logp(token)).clamp(-20, 20)
    return (d.exp() - d - 1).clamp(max=highest)


def full_kl(batch: Batch, token: Token, view: int, *, other_fixed: bool) -> Tensor:
    """``KL(own view ‖ other view)`` over all ids at a token."""
    own_V, other_V = batch.distribution(token), batch.distribution(token, view)
    other_V = other_V.detach() if other_fixed else other_V
    possible = own_V > -1e6
    return (own_V.exp() * (own_V - other_V))[possible].sum()


def roma(batch: Batch, right: Sequence[bool], *, divergence: float, policy_gradient: float,
         auxiliary: Mapping[int, int], worst_of: str, clean_gradient: bool) -> Values:  # fmt: skip
    """On right responses: k3 of the KL from clean to the worst view, less an auxiliary policy gradient.

    The worst view is that of each token, or that of each response by its mean. The auxiliary gain is the
    log-probability under one degraded view of a response times its clean advantage. https://arxiv.org/abs/2605.09262:
    "a token-level surrogate KL penalty against the worst-case augmentation"; no code of the authors was found.
    """
    views = range(len(batch.other_logits_VIEWS_RTV))

    def k3_at(token: Token, view: int) -> Tensor:
        clean = batch.logp(token) if clean_gradient else batch.logp(token).detach()
        d = batch.logp(token, view) - clean
        return d.exp() - d - 1

    values = {token: torch.zeros((), dtype=torch.float64) for token in batch.tokens()}
    for r in {r for r, _ in values if right[r]}:
        own = [token for token in values if token[0] == r]
        means = [sum(k3_at(token, view).item() for token in own) / len(own) for view in views]
        for token in own:
            by_view = [k3_at(token, view) for view in views]
            worst = max(by_view, key=Tensor.item) if worst_of == "token" else by_view[means.index(max(means))]
            gain = batch.advantage_RT[token] * batch.logp(token, auxiliary[r])
            values[token] = divergence * worst - policy_gradient * gain
    return values
