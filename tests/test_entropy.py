"""Token entropy and statistics, against torch.distributions in float64 and with a watch on tensor sizes."""

import pytest
import torch
from torch import nn
from torch.distributions import Categorical
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saei.entropy.token_entropy import token_entropy, token_statistics

M, D, V = 23, 3, 41


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that was made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *made])
        return out


def banned_logits(dtype=torch.float64):
    torch.manual_seed(0)
    logits = 4 * torch.randn(3, 7, V, dtype=dtype)
    logits[..., 5] = -torch.inf
    return logits


class TestTokenEntropy:
    @pytest.mark.parametrize("chunk_elements", [1, 4 * V, 2**22])
    def test_values_are_those_of_a_categorical(self, chunk_elements):
        logits = banned_logits()
        expected = Categorical(logits=logits).entropy()
        ours = token_entropy(logits, chunk_elements=chunk_elements)
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)
        single = token_entropy(logits.float(), chunk_elements=chunk_elements)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), expected, rtol=2e-6, atol=2e-6)

    @pytest.mark.parametrize(
        "logits", [[0.0, -torch.inf, -torch.inf], [1e4, 0.0, -1e4], [-torch.inf, 3.0, -torch.inf]], ids=str
    )
    def test_certainty_is_exactly_zero(self, logits):
        assert str(token_entropy(torch.tensor(logits)).item()) == "0.0"

    @pytest.mark.parametrize("gap", [5.0, 10.0, 20.0, 40.0])
    def test_low_entropy_of_large_logits_keeps_its_digits_in_float32(self, gap):
        logits = torch.tensor([1000.0 + gap, 1000.0], dtype=torch.float64)
        expected = Categorical(logits=logits).entropy()
        # One rounding of the larger log-probability; unshifted logits would lose 6e-5.
        torch.testing.assert_close(token_entropy(logits.float()).double(), expected, rtol=0, atol=6e-8)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_summed_in_float32(self, dtype):
        logits = banned_logits().to(dtype)
        ours = token_entropy(logits)
        assert ours.dtype == torch.float32
        expected = Categorical(logits=logits.double()).entropy()
        torch.testing.assert_close(ours.double(), expected, rtol=2e-6, atol=2e-6)

    def test_gradients(self):
        torch.manual_seed(0)
        logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: token_entropy(x, chunk_elements=12), logits)

    def test_impossible_tokens_have_no_gradient(self):
        logits = banned_logits().requires_grad_()
        (gradient,) = torch.autograd.grad(token_entropy(logits).sum(), logits)
        possible = logits.detach()[..., torch.arange(V) != 5].requires_grad_()
        (expected,) = torch.autograd.grad(Categorical(logits=possible).entropy().sum(), possible)
        assert not gradient[..., 5].any()
        torch.testing.assert_close(gradient[..., torch.arange(V) != 5], expected, rtol=1e-12, atol=1e-13)

    def test_no_rows(self):
        assert token_entropy(torch.zeros(0, 3, V)).shape == (0, 3)


def batch(dtype=torch.float64, rows=M):
    torch.manual_seed(1)
    head = nn.Linear(D, V, bias=False, dtype=dtype)
    hidden_Md = (3 * torch.randn(rows, D)).to(dtype).requires_grad_()
    banned_V = torch.zeros(V, dtype=torch.bool)
    banned_V[[3, 30]] = True
    ids_M = torch.arange(rows) % 3 + 7
    return head, hidden_Md, ids_M, banned_V


def full(head, hidden_Md, ids_M, *, temperature=1.0, banned_V=None, entropy_temperature=None):
    """Return the same from one Categorical over the whole [M, V] tensor."""
    logits_MV = head(hidden_Md).double()
    if banned_V is not None:
        logits_MV = logits_MV.masked_fill(banned_V, -torch.inf)
    policy = Categorical(logits=logits_MV / temperature)
    own = policy if entropy_temperature is None else Categorical(logits=logits_MV / entropy_temperature)
    return policy.log_prob(ids_M), own.entropy()


SETTINGS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "banned": {"temperature": 1.3, "banned": True},
    "entropy temperature": {"temperature": 0.7, "banned": True, "entropy_temperature": 1.0},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("chunk_elements", [V, 4 * V, 2**22], ids=["a row", "four rows", "at once"])
class TestTokenStatistics:
    def test_values_and_gradients(self, setting, chunk_elements):
        head, hidden_Md, ids_M, banned_V = batch()
        setting = dict(setting)
        setting["banned_V"] = banned_V if setting.pop("banned", False) else None
        logp_M, entropy_M = token_statistics(hidden_Md, ids_M, head, chunk_elements=chunk_elements, **setting)
        expected_logp_M, expected_entropy_M = full(head, hidden_Md, ids_M, **setting)
        torch.testing.assert_close(logp_M, expected_logp_M, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(entropy_M, expected_entropy_M, rtol=1e-12, atol=1e-13)

        weight_M = torch.randn(M, dtype=torch.float64)
        leaves = [hidden_Md, head.weight]
        ours = torch.autograd.grad(((logp_M + 2 * entropy_M) * weight_M).sum(), leaves)
        # Categorical's entropy has no finite gradient at probability zero: its banned columns are cut off instead.
        kept = ~banned_V if setting["banned_V"] is not None else torch.ones(V, dtype=torch.bool)
        place = kept.cumsum(0) - 1
        cut = {**setting, "banned_V": None}
        logp, entropy = full(lambda hidden: head(hidden)[:, kept], hidden_Md, place[ids_M], **cut)
        theirs = torch.autograd.grad(((logp + 2 * entropy) * weight_M).sum(), leaves)
        for own, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)


def test_gradcheck_through_recomputed_chunks():
    head, hidden_Md, ids_M, banned_V = batch(rows=5)
    assert torch.autograd.gradcheck(
        lambda hidden: token_statistics(hidden, ids_M, head, banned_V=banned_V, chunk_elements=2 * V), hidden_Md
    )


@pytest.mark.parametrize("chunked", [True, False])
def test_no_tensor_of_all_tokens_and_the_vocabulary(chunked):
    head, hidden_Md, ids_M, banned_V = batch(torch.float32)
    with LargestTensor() as forward:
        logp_M, entropy_M = token_statistics(
            hidden_Md, ids_M, head, banned_V=banned_V, chunk_elements=4 * V if chunked else 2**22
        )
    with LargestTensor() as backward:
        (logp_M.sum() + entropy_M.sum()).backward()
    assert forward.elements == backward.elements == (4 * V if chunked else M * V)


def test_logits_of_one_chunk_live_at_a_time():
    """What is kept for the backward pass is as small as the hidden states, whatever the number of chunks."""
    kept = []
    head, hidden_Md, ids_M, _ = batch(torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        token_statistics(hidden_Md, ids_M, head, chunk_elements=4 * V)
    assert max(kept, default=0) <= D * V


def test_without_grad_each_row_is_computed_once():
    head, hidden_Md, ids_M, banned_V = batch(torch.float32)
    rows = []
    with torch.no_grad():
        token_statistics(
            hidden_Md, ids_M, lambda x: rows.append(len(x)) or head(x), banned_V=banned_V, chunk_elements=8 * V
        )
    assert rows == [8, 8, 7]


@pytest.mark.parametrize(
    ("chunk_elements", "rows"),
    [(8 * V, [8, 8, 7, 7, 8, 8]), (M * V, [M]), (2**22, [M])],
    ids=["chunks", "exactly one", "one"],
)
def test_only_what_does_not_fit_at_once_is_computed_again(chunk_elements, rows):
    head, hidden_Md, ids_M, banned_V = batch(torch.float32)
    seen = []
    logp_M, _ = token_statistics(
        hidden_Md, ids_M, lambda x: seen.append(len(x)) or head(x), banned_V=banned_V, chunk_elements=chunk_elements
    )
    logp_M.sum().backward()
    assert seen == rows


def test_half_precision_states_give_float32():
    head, hidden_Md, ids_M, banned_V = batch(torch.bfloat16)
    logp_M, entropy_M = token_statistics(hidden_Md, ids_M, head, banned_V=banned_V, chunk_elements=4 * V)
    assert logp_M.dtype == entropy_M.dtype == torch.float32
    expected_logp_M, expected_entropy_M = full(head, hidden_Md, ids_M, banned_V=banned_V)
    torch.testing.assert_close(logp_M.double(), expected_logp_M, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(entropy_M.double(), expected_entropy_M, rtol=2e-6, atol=2e-6)
    (logp_M.sum() + entropy_M.sum()).backward()
    assert hidden_Md.grad.dtype == torch.bfloat16


def test_entropy_only_where_wanted():
    head, hidden_Md, ids_M, _ = batch()
    logp_M, entropy_M = token_statistics(hidden_Md, ids_M, head, with_entropy=False, chunk_elements=4 * V)
    assert entropy_M is None
    assert torch.equal(logp_M, token_statistics(hidden_Md, ids_M, head, chunk_elements=4 * V)[0])


def test_no_tokens():
    head, hidden_Md, ids_M, _ = batch(torch.bfloat16, rows=0)
    logp_M, entropy_M = token_statistics(hidden_Md, ids_M, head)
    assert logp_M.shape == entropy_M.shape == (0,)
    assert logp_M.dtype == entropy_M.dtype == torch.float32
    (logp_M.sum() + entropy_M.sum()).backward()
    assert hidden_Md.grad.shape == (0, D)
