"""Our attacks beside second implementations, and our purifier inside another toolbox."""

import warnings

import pytest
import torch

from arn_purify import models
from arn_purify.training import attacks, data
from arn_purify.training.measuring import interop

pytestmark = pytest.mark.slow

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    art = pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    from art.attacks.evasion import AutoProjectedGradientDescent, CarliniL2Method, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier


@pytest.fixture(scope="module")
def problem():
    classifier = models.load("mnist-lenet5").requires_grad_(False)
    images, labels = data.load("digits").test.batch(slice(None))
    known = classifier(images).argmax(1) == labels
    return classifier, images[known][:100].contiguous(), labels[known][:100]


def of_art(classifier, **more):
    return PyTorchClassifier(
        classifier, torch.nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1), device_type="cpu", **more
    )


def share(classifier, adversarial, labels):
    return float((classifier(adversarial).argmax(1) != labels).float().mean())


@pytest.mark.filterwarnings("ignore")
def test_pgd_is_as_strong_as_theirs(problem):
    classifier, images, labels = problem
    ours = attacks.get("PGD_N@0.05")(classifier, images, labels, 0).images
    bounded = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=40, abs_stepsize=0.01)
    (_, theirs, _) = attack(bounded, images, labels, epsilons=0.05)
    of_the_toolbox = ProjectedGradientDescentPyTorch(
        of_art(classifier), eps=0.05, eps_step=0.01, max_iter=40, num_random_init=1, verbose=False
    ).generate(images.numpy(), labels.numpy())
    found = [share(classifier, x, labels) for x in (ours, theirs, torch.from_numpy(of_the_toolbox))]
    assert 0.1 < found[0] < 0.95
    assert max(found) - min(found) <= 0.04


@pytest.mark.filterwarnings("ignore")
def test_ddn_and_cw_find_changes_as_small_as_theirs(problem):
    classifier, images, labels = problem
    bounded = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")

    def median(adversarial):
        return float((adversarial - images).flatten(1).norm(dim=1).median())

    ddn = attacks.get("DDN_N")(classifier, images, labels, 0).images
    (_, theirs, _) = foolbox.attacks.DDNAttack(steps=100)(bounded, images, labels, epsilons=None)
    assert median(ddn) == pytest.approx(median(theirs), rel=0.1)
    few = (images[:20], labels[:20])
    cw = attacks.get("CW_N")(classifier, *few, 0).images
    reference = CarliniL2Method(
        of_art(classifier), confidence=1.0, binary_search_steps=4, max_iter=100, learning_rate=0.1, batch_size=20,
        initial_const=1.0, verbose=False,
    ).generate(few[0].numpy(), few[1].numpy())  # fmt: skip
    norms = [float((x - few[0]).flatten(1).norm(dim=1).median()) for x in (cw, torch.from_numpy(reference))]
    assert norms[0] <= norms[1] * 1.1


@pytest.mark.filterwarnings("ignore")
def test_autoattack_is_a_little_stronger_than_their_apgd(problem):
    classifier, images, labels = (problem[0], problem[1][:50], problem[2][:50])
    ours = attacks.get("AA_N@0.05")(classifier, images, labels, 0).images
    theirs = AutoProjectedGradientDescent(
        of_art(classifier), eps=0.05, eps_step=0.1, max_iter=100, nb_random_init=1, batch_size=50,
        loss_type="cross_entropy", verbose=False,
    ).generate(images.numpy(), torch.nn.functional.one_hot(labels, 10).numpy())  # fmt: skip
    found = (share(classifier, ours, labels), share(classifier, torch.from_numpy(theirs), labels))
    assert 0.1 < found[1] <= found[0] + 1e-6
    assert found[0] - found[1] <= 0.1  # AutoAttack adds three attacks to this one


@pytest.mark.filterwarnings("ignore")
def test_the_purifier_is_a_preprocessor_of_the_toolbox_with_its_gradient(problem):
    classifier, images, labels = problem
    purifier = models.load("mnist-transparent").requires_grad_(False)
    behind = of_art(classifier, preprocessing_defences=[interop.art_preprocessor(purifier)])
    together = interop.PurifiedClassifier(purifier, classifier)
    assert torch.allclose(torch.from_numpy(behind.predict(images.numpy())), together(images), atol=1e-5)
    through = behind.loss_gradient(images.numpy(), torch.nn.functional.one_hot(labels, 10).numpy())
    x = images.clone().requires_grad_(True)
    torch.nn.functional.cross_entropy(together(x), labels).backward()
    assert torch.nn.functional.cosine_similarity(
        torch.from_numpy(through).flatten(1), x.grad.flatten(1)
    ).median() == pytest.approx(1, abs=1e-3)
