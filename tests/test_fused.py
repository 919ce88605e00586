"""The fused head against torch.distributions in float64, and what it must not be used for."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from saei.entropy.fused import Kernel, fused_statistics, is_plain_linear
from saei.entropy.token_entropy import token_statistics

M, D, V = 23, 3, 41
KEPT = torch.ones(V, dtype=torch.bool)
KEPT[[3, 30]] = False
IDS = torch.arange(M) % 3 + 7


def frozen(bias=False, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Linear(D, V, bias=bias, dtype=dtype).requires_grad_(False)


def hidden(dtype=torch.float64, rows=M):
    return (3 * torch.randn(rows, D, generator=torch.Generator().manual_seed(1))).to(dtype).requires_grad_()


def expected(head, hidden_Md, ids_M=IDS, *, temperature, entropy_temperature, banned):
    """Return the same from one Categorical; banned columns are cut off, since at probability 0 it has no gradient."""
    kept_V = KEPT if banned else torch.ones(V, dtype=torch.bool)
    place_V = kept_V.cumsum(0) - 1
    logits_MV = head(hidden_Md)[:, kept_V].double()
    logp_M = Categorical(logits=logits_MV / temperature).log_prob(place_V[ids_M])
    return logp_M, Categorical(logits=logits_MV / (entropy_temperature or temperature)).entropy()


class Products(TorchDispatchMode):
    """Counts the rows that are multiplied with the head, by products, and the largest tensor."""

    def __init__(self):
        super().__init__()
        self.rows, self.largest = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            left, right = args[-2:]
            if V in right.shape:
                self.rows.append(left.shape[0])
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out


@pytest.mark.parametrize("hidden_only", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("banned", [False, True])
@pytest.mark.parametrize(("temperature", "entropy_temperature"), [(1.0, None), (0.7, None), (1.3, 1.0)])
@pytest.mark.parametrize("rows", [1, 4, M])
def test_values_and_gradients(rows, temperature, entropy_temperature, banned, bias, hidden_only):
    """Each result alone and both together, whether or not the gradient was foreseen."""
    head = frozen(bias)
    setting = {"temperature": temperature, "entropy_temperature": entropy_temperature}
    theirs = expected(head, own := hidden(), banned=banned, **setting)
    ours = token_statistics(
        leaf := hidden(),
        IDS,
        head,
        banned_V=~KEPT if banned else None,
        hidden_only=hidden_only,
        chunk_elements=rows * V,
        **setting,
    )
    assert type(ours[0].grad_fn).__name__ == "_FusedBackward"
    weight_M = torch.randn(M, dtype=torch.float64)
    for shares in ((1, 0), (0, 1), (1, 2)):
        values = [
            sum(share * (result * weight_M).sum() for share, result in zip(shares, pair, strict=True) if share)
            for pair in (ours, theirs)
        ]
        torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=1e-12)
        (gradient,) = torch.autograd.grad(values[0], leaf, retain_graph=True)
        (reference,) = torch.autograd.grad(values[1], own, retain_graph=True)
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("hidden_only", [False, True])
def test_gradcheck(hidden_only):
    head = frozen(bias=True)
    assert torch.autograd.gradcheck(
        lambda hidden_Md: token_statistics(
            hidden_Md, IDS[:5], head, banned_V=~KEPT, temperature=0.8, hidden_only=hidden_only, chunk_elements=2 * V
        ),
        hidden(rows=5),
    )


@pytest.mark.parametrize(
    ("hidden_only", "with_entropy", "rows"),
    [(True, True, [8, 8] * 2 + [7, 7]), (True, False, [8, 8] * 2 + [7, 7]), (False, True, [8, 8, 8] * 2 + [7, 7, 7])],
)
def test_the_head_is_multiplied_once_forth_and_once_back_per_gradient(hidden_only, with_entropy, rows):
    with Products() as products:
        logp_M, entropy_M = token_statistics(
            hidden(),
            IDS,
            frozen(),
            banned_V=~KEPT,
            hidden_only=hidden_only,
            with_entropy=with_entropy,
            chunk_elements=8 * V,
        )
        wanted = entropy_M if with_entropy else logp_M
        (wanted.sum() if hidden_only else wanted.sum() + logp_M.sum()).backward()
    assert products.rows == rows
    assert products.largest == 8 * V


def test_a_head_that_is_trained_costs_nothing_in_an_attack():
    head = frozen().requires_grad_(True)
    with Products() as products:
        _, entropy_M = token_statistics(hidden(), IDS, head, banned_V=~KEPT, hidden_only=True)
        entropy_M.sum().backward()
    assert products.rows == [M, M]
    assert head.weight.grad is None


def test_a_head_that_is_trained_gets_its_gradient():
    head = frozen(bias=True).requires_grad_(True)
    logp_M, entropy_M = token_statistics(leaf := hidden(), IDS, head, chunk_elements=4 * V)
    theirs = expected(head, own := hidden(), temperature=1.0, entropy_temperature=None, banned=False)
    ours = torch.autograd.grad(logp_M.sum() + 2 * entropy_M.sum(), [leaf, *head.parameters()])
    reference = torch.autograd.grad(theirs[0].sum() + 2 * theirs[1].sum(), [own, *head.parameters()])
    torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-12)


def test_what_is_kept_is_as_large_as_the_hidden_states():
    kept, head = [], frozen()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        token_statistics(hidden(), IDS, head, banned_V=~KEPT)
    own = [x for x in kept if x.data_ptr() != head.weight.data_ptr()]
    assert own
    assert all(x.numel() <= M * D for x in own)


def test_a_banned_token_has_probability_zero():
    ids_M = torch.tensor([3, 7])
    logp_M, entropy_M = token_statistics(hidden(rows=2), ids_M, frozen(), banned_V=~KEPT)
    assert logp_M[0] == -math.inf
    assert logp_M[1].isfinite()
    assert entropy_M.isfinite().all()


def test_a_banned_token_has_the_gradient_of_the_normaliser_alone():
    head, ids_M = frozen(), torch.tensor([3, 30])
    logp_M, _ = token_statistics(leaf := hidden(rows=2), ids_M, head, banned_V=~KEPT)
    (gradient,) = torch.autograd.grad(logp_M.sum(), leaf)
    normaliser_M = head(own := hidden(rows=2))[:, KEPT].logsumexp(-1)
    (expected_gradient,) = torch.autograd.grad(-normaliser_M.sum(), own)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


def test_certainty_is_exactly_zero():
    head = frozen()
    head.weight.zero_()[7] = 1e4
    _, entropy_M = token_statistics(torch.ones(2, D).double().requires_grad_(), IDS[:2], head)
    assert [str(value) for value in entropy_M.tolist()] == ["0.0", "0.0"]


def test_no_tokens():
    logp_M, entropy_M = token_statistics(leaf := hidden(rows=0), IDS[:0], frozen())
    (logp_M.sum() + entropy_M.sum()).backward()
    assert leaf.grad.shape == (0, D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_vocabulary_loses_nothing_to_the_sums(dtype):
    """Against float64 sums over torch's own float32 log-probabilities, which is where the rounding happens."""
    generator = torch.Generator().manual_seed(2)
    vocabulary, width, rows = 50_000, 16, 6
    head = nn.Linear(width, vocabulary, bias=False, dtype=dtype).requires_grad_(False)
    head.weight.copy_(torch.randn(vocabulary, width, generator=generator))
    leaf = torch.randn(rows, width, generator=generator).to(dtype).requires_grad_()
    ids_M = torch.arange(rows)
    logp_M, entropy_M = token_statistics(leaf, ids_M, head)
    assert logp_M.dtype == entropy_M.dtype == torch.float32

    logp_MV = head(leaf.detach()).float().log_softmax(-1)
    assert torch.equal(logp_M, logp_MV.gather(-1, ids_M[:, None])[:, 0])
    wide_MV = logp_MV.double()
    p_MV = wide_MV.exp()
    expected_M = -(p_MV * wide_MV).sum(-1)
    torch.testing.assert_close(entropy_M.double(), expected_M, rtol=3e-7, atol=0)

    (gradient,) = torch.autograd.grad(entropy_M.sum() + logp_M.sum(), leaf)
    # Rounding leaves a sum of p beside 1; the slope at the drawn id is the sum of the others, not what 1 lacks.
    rest_MV = nn.functional.one_hot(ids_M, vocabulary) * p_MV.sum(-1, keepdim=True)
    dz_MV = -p_MV * (wide_MV + expected_M[:, None]) - p_MV + rest_MV
    slope = dz_MV @ head.weight.double()
    assert gradient.dtype == dtype
    # The products of the head's own type are left: half precision keeps 8 bits of a gradient.
    assert (
        float((gradient.double() - slope).norm() / slope.norm()) < {torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    )


def test_autocast_is_that_of_the_layer():
    head, states = frozen(dtype=torch.float32), hidden(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = token_statistics(leaf := states.detach().requires_grad_(), IDS, head)
        theirs = token_statistics(own := states.detach().requires_grad_(), IDS, lambda x: head(x))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for result, reference in zip(ours, theirs, strict=True):
        (gradient,) = torch.autograd.grad(result.sum(), leaf, retain_graph=True)
        (expected_gradient,) = torch.autograd.grad(reference.sum(), own, retain_graph=True)
        assert gradient.dtype == torch.float32
        assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 2e-2


def hooked(head):
    head.register_forward_hook(lambda module, args, out: 2 * out)
    return head


def replaced(head):
    forward = head.forward
    head.forward = lambda x: 2 * forward(x)
    return head


def parametrised(head):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    return parametrize.register_parametrization(head, "weight", Double())


def derived(head):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    own = Doubled(D, V, bias=False, dtype=torch.float64).requires_grad_(False)
    own.load_state_dict(head.state_dict())
    return own


def adapted(head):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        nn.ModuleDict({"head": head}), peft.LoraConfig(r=2, target_modules=["head"], init_lora_weights=False)
    )
    return model.base_model.model["head"].double()


def capped(head):
    return lambda x: 5 * torch.tanh(head(x) / 5)


class Marked(torch.Tensor):
    """Stands for a quantised or distributed weight."""


def of_another_tensor(head):
    head.weight = nn.Parameter(head.weight.data.as_subclass(Marked), requires_grad=False)
    return head


@pytest.mark.parametrize("make", [hooked, replaced, parametrised, derived, adapted, capped])
def test_a_head_that_is_more_than_its_weight_is_called(make):
    head = make(frozen())
    assert not is_plain_linear(head)
    logp_M, entropy_M = token_statistics(leaf := hidden(), IDS, head, hidden_only=True, chunk_elements=4 * V)
    theirs = expected(head, own := hidden(), temperature=1.0, entropy_temperature=None, banned=False)
    torch.testing.assert_close((logp_M, entropy_M), theirs, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(entropy_M.sum(), leaf)
    (reference,) = torch.autograd.grad(theirs[1].sum(), own)
    torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-12)
    plain = token_statistics(hidden(), IDS, frozen())[0]
    assert not torch.allclose(plain, logp_M)  # the wrapping matters


def test_a_weight_of_another_tensor_type_is_left_to_its_layer():
    assert is_plain_linear(frozen(bias=True))
    assert not is_plain_linear(of_another_tensor(frozen()))
    assert not is_plain_linear(nn.Identity())


def test_weights_that_changed_before_an_unforeseen_gradient_are_noticed():
    head = copy.deepcopy(frozen())
    kernel = Kernel(1.0, 1.0, None, with_entropy=True, rows=M)
    logp_M, _ = fused_statistics(hidden(), IDS, head, kernel, differentiated={"entropy"})
    head.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logp_M.sum().backward()
