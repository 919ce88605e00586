"""FGSM and PGD against torchattacks on a toy classifier, bit for bit."""

import pytest
import torch
import torchattacks
from torch import nn
from torch.nn.functional import cross_entropy

from saei.attacks.base import BlockSpace, Space
from saei.attacks.fgsm import FGSM
from saei.attacks.pgd import PGD

LABELS = torch.tensor([0, 2, 1, 2])


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 4 * 5, 3)).eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    images = torch.rand(4, 3, 6, 7)
    images[:, :, 0] = 0.0
    images[:, :, 1] = 1.0
    return images


def ours(config, classifier, images, labels=LABELS, seed=5):
    """Attack the classifier's cross-entropy, one block per image, on no grid."""
    moved = config.build().attack(
        lambda point: cross_entropy(classifier(torch.stack(point)), labels, reduction="none"),
        tuple(images),
        space=Space((BlockSpace(),) * len(images), tuple(range(len(images)))),
        progress=0.0,
        generators=[torch.Generator().manual_seed(seed)] * len(images),
    )
    return torch.stack(moved)


@pytest.mark.parametrize("eps", ["1/255", "8/255", "0.3"])
def test_fgsm(classifier, images, eps):
    config = FGSM.Config(step=eps)
    theirs = torchattacks.FGSM(classifier, eps=float(config.step))(images, LABELS)
    assert torch.equal(ours(config, classifier, images), theirs)
    assert not torch.equal(theirs, images)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_pgd(classifier, images, steps, random_start):
    config = PGD.Config(step="3/255", radius="8/255", steps=steps, random_start=random_start)
    attack = torchattacks.PGD(
        classifier, eps=float(config.radius), alpha=float(config.step), steps=steps, random_start=random_start
    )
    torch.manual_seed(5)  # torchattacks draws from the global generator
    theirs = attack(images, LABELS)
    assert torch.equal(ours(config, classifier, images), theirs)
    if random_start and steps < 3:  # ten steps lead to the same corner from everywhere
        assert not torch.equal(ours(config, classifier, images, seed=6), theirs)


def test_pgd_lowers_what_the_targeted_attack_lowers(classifier, images):
    attack = torchattacks.PGD(classifier, eps=8 / 255, alpha=3 / 255, steps=4, random_start=False)
    attack.set_mode_targeted_by_label(quiet=True)
    config = PGD.Config(step="3/255", radius="8/255", steps=4, direction="lower")
    target = (LABELS + 1) % 3
    assert torch.equal(ours(config, classifier, images, labels=target), attack(images, target))


def test_pgd_of_an_entropy(images):
    """Two logits ``[0, log(expm1(H))]`` with label 0 have the cross-entropy H."""
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 7, 5)).eval()

    def entropies(batch):
        return torch.distributions.Categorical(logits=policy(batch)).entropy()

    class AsClassifier(nn.Module):
        def forward(self, batch):
            H_B = entropies(batch)
            return torch.stack([torch.zeros_like(H_B), H_B.expm1().log()], dim=1)

    theirs = torchattacks.PGD(AsClassifier(), eps=6 / 255, alpha=2 / 255, steps=3, random_start=False)(
        images, torch.zeros(4, dtype=torch.int64)
    )
    (*moved,) = (
        PGD.Config(step="2/255", steps=3)
        .build()
        .attack(
            lambda point: entropies(torch.stack(point)),
            tuple(images),
            space=Space((BlockSpace(),) * 4, (0, 1, 2, 3)),
            progress=0.0,
            generators=[torch.Generator()] * 4,
        )
    )
    assert torch.equal(torch.stack(moved), theirs)
    assert (entropies(theirs) > entropies(images)).all()
