"""Attacks by name: variants, budgets, settings for training."""

import pytest

from arn_purify.training import attacks


def test_an_attack_without_a_step_takes_another_budget():
    assert attacks.at_budget(attacks.get("AA_N"), 0.1).eps == 0.1


def test_names_and_settings_are_strict():
    with pytest.raises(attacks.AttackError, match="no attack 'PGD'"):
        attacks.get("PGD")
    with pytest.raises(attacks.AttackError, match="no setting"):
        attacks.get("PGD_N").with_settings(steps=3)


def test_training_takes_half_the_steps_of_twice_the_size():
    attack = attacks.for_training(attacks.get("PGD_N"))
    assert dict(attack.settings) == {"iterations": 20, "step": 0.02}
    assert attack.eps == 0.3
    for name in ("PGD_N", "PGDM_T"):
        assert attacks.for_training(attacks.get(name, "cifar10")).settings["iterations"] == 10
    for name in ("PGD_Nx1", "PGD_Nx100"):  # as many as its name says
        for dataset in ("mnist", "cifar10"):
            assert attacks.for_training(attacks.get(name, dataset)) == attacks.get(name, dataset)


def test_variants_change_the_budget_and_the_iterations_and_are_named_so():
    attack = attacks.get("PGD_N@0.2x100")
    assert (attack.name, attack.eps, attack.settings["iterations"]) == ("PGD_N@0.2x100", 0.2, 100)
    assert attacks.get("AA_N_rand@0.1").eps == 0.1
    attack = attacks.get("PGDM_T@0.2x100r10")
    assert (attack.name, attack.eps, attack.goal) == ("PGDM_T@0.2x100r10", 0.2, "targeted")
    assert dict(attack.settings) == {"iterations": 100, "step": 0.01, "restarts": 10}
    for impossible in ("CW_N@0.2", "AA_Nx3", "PGD_N@", "PGD_N@0.1@0.2", "PGD_Nr0", "AA_Nr2"):
        with pytest.raises(attacks.AttackError):
            attacks.get(impossible)


def test_budgets_follow_the_data_set():
    assert attacks.get("PGD_N_eps2", "mnist").eps == 0.4
    assert attacks.get("PGD_N", "folder").eps == pytest.approx(8 / 255)


def test_steps_of_a_variant_reach_across_its_budget():
    assert attacks.get("PGD_Nx1").settings["step"] == 0.6
    assert attacks.get("PGD_T@0.5").settings["step"] == 0.025
    assert attacks.get("PGD_N@0.2").settings["step"] == 0.01
    assert attacks.get("PGD_N@0.3x40").settings == attacks.get("PGD_N").settings


def test_the_step_of_another_budget_is_the_same_share_of_it():
    for name, share in (("PGD_N", 4), ("PGDM_T", 4), ("MATCH_N", 10), ("MI_FGSM", 10), ("DI_FGSM", 10)):
        for dataset in ("photos", "cifar10", "folder"):
            attack = attacks.get(f"{name}@0.0157", dataset)
            assert attack.settings["step"] == pytest.approx(0.0157 / share), name
    assert attacks.get("PGD_N@0.0157x20", "photos").settings["step"] == pytest.approx(0.0157 / 4)
    assert attacks.get("FWA_N@0.003", "cifar10").settings["step"] == 0.1, "not in units of its budget"
