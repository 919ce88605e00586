"""The divergence over the whole vocabulary against torch.distributions in float64, and what it keeps."""

import itertools
from decimal import Decimal, getcontext

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from saei.entropy.token_kl import token_kl
from saei.entropy.token_states import TokenStates, per_token

M, D, V = 23, 3, 41
KEPT = torch.ones(V, dtype=torch.bool)
KEPT[[3, 30]] = False


def head(seed=0, bias=False, trained=False, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Linear(D, V, bias=bias, dtype=dtype).requires_grad_(trained)


def hidden(seed=1, dtype=torch.float64, rows=M):
    return (3 * torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))).to(dtype).requires_grad_()


def expected(p_logits, q_logits, *, temperature=1.0, banned=False):
    """Banned columns are cut off: at probability 0 the divergence of a Categorical is no number."""
    kept_V = KEPT if banned else torch.ones(V, dtype=torch.bool)
    sides = (Categorical(logits=logits[:, kept_V].double() / temperature) for logits in (p_logits, q_logits))
    return kl_divergence(*sides)


@pytest.mark.parametrize("trained", [(False, False), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("banned", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("rows", [1, 4, M])
def test_values_and_gradients_to_either_side(rows, temperature, banned, bias, trained):
    heads = [head(0, bias, trained[0]), head(5, bias, trained[1])]
    ours, theirs = ([hidden(1), hidden(2)] for _ in range(2))
    kl_M = token_kl(
        *(TokenStates(leaf, each) for leaf, each in zip(ours, heads, strict=True)),
        temperature=temperature,
        banned_V=~KEPT if banned else None,
        chunk_elements=rows * V,
    )
    logits = [each(leaf) for leaf, each in zip(theirs, heads, strict=True)]
    reference_M = expected(*logits, temperature=temperature, banned=banned)
    torch.testing.assert_close(kl_M, reference_M, rtol=1e-12, atol=1e-13)
    assert (type(kl_M.grad_fn).__name__ == "_FusedKLBackward") == (not any(trained))
    weight_M = torch.randn(M, dtype=torch.float64)
    weights = [p for each in heads for p in each.parameters() if p.requires_grad]
    found = torch.autograd.grad((kl_M * weight_M).sum(), [*ours, *weights])
    wanted = torch.autograd.grad((reference_M * weight_M).sum(), [*theirs, *weights])
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trained", [False, True])
def test_gradcheck(trained):
    heads = [head(0, True, trained), head(5, True)]

    def kl(p_Md, q_Md):
        sides = (TokenStates(leaf, each) for leaf, each in zip((p_Md, q_Md), heads, strict=True))
        return token_kl(*sides, temperature=0.8, banned_V=~KEPT, chunk_elements=2 * V)

    assert torch.autograd.gradcheck(kl, (hidden(1, rows=5), hidden(2, rows=5)))


@pytest.mark.parametrize("side", [0, 1])
def test_one_side_may_be_constant(side):
    states = [hidden(1).detach(), hidden(2).detach()]
    states[side].requires_grad_()
    kl_M = token_kl(*(TokenStates(each, head(seed)) for seed, each in enumerate(states)), chunk_elements=4 * V)
    (found,) = torch.autograd.grad(kl_M.sum(), [states[side]])
    logits = [head(seed)(each) for seed, each in enumerate(states)]
    (wanted,) = torch.autograd.grad(expected(*logits).sum(), [states[side]])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        again_M = token_kl(*(TokenStates(each, head(seed)) for seed, each in enumerate(states)))
    torch.testing.assert_close(again_M, kl_M.detach())
    assert not again_M.requires_grad


def test_a_trained_head_gets_no_gradient_where_nobody_asks_for_it():
    trained = head(trained=True)
    kl_M = token_kl(TokenStates(hidden(1), trained, hidden_only=True), TokenStates(hidden(2).detach(), head(5)))
    kl_M.sum().backward()
    assert trained.weight.grad is None


def exact(p_logits, q_logits):
    """In 60 digits, by the textbook's form."""
    getcontext().prec = 60
    rows = [[Decimal(value) for value in logits.tolist()] for logits in (p_logits, q_logits)]
    logs = []
    for row in rows:
        total = sum(value.exp() for value in row).ln()
        logs.append([value - total for value in row])
    return float(sum(p.exp() * (p - q) for p, q in zip(*logs, strict=True)))


@pytest.mark.parametrize("shift", [1e-3, 1e-4, 0.1, 3.0])
def test_small_divergences_keep_their_digits_in_float32(shift):
    """Logits as large as a trained model's, moved a little; the textbook's form is lost in the rounding."""
    generator = torch.Generator().manual_seed(0)
    p_mV = 8 * torch.randn(6, V, generator=generator)
    q_mV = p_mV + shift * torch.randn(6, V, generator=generator)
    identity = nn.Identity()
    with torch.no_grad():
        ours_m = token_kl(TokenStates(p_mV, identity), TokenStates(q_mV, identity))
    wanted = [exact(p, q) for p, q in zip(p_mV.double(), q_mV.double(), strict=True)]
    assert bool((ours_m >= 0).all())
    for mine, right in zip(ours_m.tolist(), wanted, strict=True):
        # A log-probability of 16 nats is rounded by 1e-6, which is felt in proportion to the δ of about the shift.
        assert mine == pytest.approx(right, rel=1e-5 + 4e-6 / shift)
    logs = [logits.log_softmax(-1) for logits in (p_mV, q_mV)]
    textbook_m = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
    errors = [abs(mine / right - 1) for mine, right in zip(textbook_m.tolist(), wanted, strict=True)]
    if shift <= 1e-4:
        assert max(errors) > 0.1


def test_certain_tokens_are_numbers():
    """A distribution on one token against others, and probabilities that float32 cannot hold."""
    logits = torch.full((4, V), -200.0)
    for row, place in enumerate((0, 0, 5, 7)):
        logits[row, place] = 100.0
    p, q = logits[[0, 0, 1, 3]].clone().requires_grad_(), logits[[1, 2, 3, 2]].clone().requires_grad_()
    identity = nn.Identity()
    kl_m = token_kl(TokenStates(p, identity), TokenStates(q, identity))
    torch.testing.assert_close(kl_m, torch.tensor([0.0, 300.0, 300.0, 300.0]))
    gradients = torch.autograd.grad(kl_m.sum(), [p, q])
    assert all(bool(each.isfinite().all()) for each in gradients)
    torch.testing.assert_close(gradients[1][1, [0, 5]], torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_heads_give_float32(dtype):
    heads = [head(seed, dtype=dtype) for seed in (0, 5)]
    states = [hidden(seed, dtype) for seed in (1, 2)]
    kl_M = token_kl(*(TokenStates(leaf, each) for leaf, each in zip(states, heads, strict=True)), banned_V=~KEPT)
    assert kl_M.dtype == torch.float32
    wide = [copy.detach().double().requires_grad_() for copy in states]
    logits = [leaf @ each.weight.double().T for leaf, each in zip(wide, heads, strict=True)]
    torch.testing.assert_close(kl_M.double(), expected(*logits, banned=True), rtol=0.05, atol=0.05)
    found = torch.autograd.grad(kl_M.sum(), states)
    wanted = torch.autograd.grad(expected(*logits, banned=True).sum(), wide)
    for mine, other in zip(found, wanted, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), other, rtol=0.1, atol=0.05)


class Products(TorchDispatchMode):
    """Counts the rows that are multiplied with a head, and the largest tensor."""

    def __init__(self):
        super().__init__()
        self.rows, self.largest = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            left, right = args[-2:]
            if V in right.shape:
                self.rows.append(left.shape[0])
        for each in (out,) if isinstance(out, torch.Tensor) else ():
            self.largest = max(self.largest, each.numel())
        return out


@pytest.mark.parametrize("trained", [False, True])
def test_no_more_than_a_chunk_of_logits_exists(trained):
    heads = [head(0, trained=trained), head(5)]
    with Products() as products:
        sides = (TokenStates(hidden(n), each) for n, each in enumerate(heads))
        token_kl(*sides, banned_V=~KEPT, chunk_elements=8 * V).sum().backward()
    assert products.largest == 8 * V
    if not trained:
        assert products.rows == list(itertools.chain.from_iterable([[rows] * 4 for rows in (8, 8, 7)]))


def test_what_is_kept_is_as_large_as_the_hidden_states():
    kept, heads = [], [head(0), head(5)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        token_kl(*(TokenStates(hidden(n), each) for n, each in enumerate(heads)), banned_V=~KEPT)
    assert len(kept) == 2
    assert all(x.numel() == M * D for x in kept)


def test_nothing_diverges_from_itself_and_no_tokens_have_none():
    states = TokenStates(hidden().detach().float(), head(dtype=torch.float32))
    assert token_kl(states, states).tolist() == [0.0] * M
    none = TokenStates(hidden(rows=0), head())
    assert token_kl(none, none).shape == (0,)


def test_autocast_computes_as_the_layer_would():
    heads = [head(seed, dtype=torch.float32) for seed in (0, 5)]
    states = [hidden(seed, torch.float32) for seed in (1, 2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused_M = token_kl(*(TokenStates(leaf, each) for leaf, each in zip(states, heads, strict=True)))
        with torch.no_grad():
            plain_M = token_kl(*(TokenStates(leaf, each) for leaf, each in zip(states, heads, strict=True)))
    assert torch.equal(fused_M, plain_M)
    gradients = torch.autograd.grad(fused_M.sum(), states)
    assert all(each.dtype == torch.float32 and bool(each.any()) for each in gradients)


def test_a_function_of_distributions_is_computed_in_chunks_with_its_gradient():
    """The same divergence as a function that autograd differentiates."""

    def textbook(logp_mV, logq_mV, ids_m):
        return (logp_mV.exp() * (logp_mV - logq_mV)).sum(-1)

    ids_M = torch.arange(M) % 3 + 7
    for trained, rows in ((False, 4), (True, 4), (True, M)):
        heads = [head(0, trained=trained), head(5)]
        ours, theirs = ([hidden(1), hidden(2)] for _ in range(2))
        found_M, wanted_M = (
            way(
                *(TokenStates(leaf, each) for leaf, each in zip(leaves, heads, strict=True)),
                temperature=0.7,
                banned_V=~KEPT,
                chunk_elements=rows * V,
                **options,
            )
            for way, leaves, options in (
                (lambda *sides, **options: per_token(textbook, *sides, **options), ours, {"ids_M": ids_M}),
                (token_kl, theirs, {}),
            )
        )
        torch.testing.assert_close(found_M, wanted_M, rtol=1e-10, atol=1e-12)
        for mine, other in zip(
            torch.autograd.grad(found_M.sum(), ours), torch.autograd.grad(wanted_M.sum(), theirs), strict=True
        ):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_a_function_sees_the_tokens_and_no_more_than_a_chunk():
    ids_M = torch.arange(M) % 3 + 7
    states = TokenStates(hidden(), head())
    with Products() as products:
        logp_M = per_token(
            lambda logp_mV, ids_m: logp_mV.gather(-1, ids_m[:, None])[:, 0],
            states,
            ids_M=ids_M,
            banned_V=~KEPT,
            chunk_elements=8 * V,
        )
    assert products.largest == 8 * V
    logits_MV = states.head(states.hidden_Md)[:, KEPT]
    places = KEPT.cumsum(0)[ids_M] - 1
    torch.testing.assert_close(logp_M, Categorical(logits=logits_MV).log_prob(places))
