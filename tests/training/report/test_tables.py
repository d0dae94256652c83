"""Tables: their Markdown, and the paper's rows beside ours."""

from arn_purify.training.report.markdown import markdown_table
from arn_purify.training.report.subsets import subsets
from arn_purify.training.report.tables import adaptive, comparison, stress_tests
from arn_purify.training.report.weakest import weakest

from ..subjects import a_record


def test_numbers_are_aligned_to_the_right():
    assert markdown_table(["name", "n"], [["a", "1"], ["b", ""]]) == "| name | n |\n| --- | ---: |\n| a | 1 |\n| b |  |"


def test_the_papers_row_stands_below_ours_and_another_attack_is_named():
    bare = {"defence": "none", "checkpoint": "identity", "recipe": ""}
    records = [a_record(errors=20), a_record(**bare, errors=990)]
    paper = {("ARN_PP", "PGD_N"): 1.5, ("none", "PGD_N"): 99.2}
    text = comparison(records, ("PGD_N",), paper)
    assert "| *the paper's ARN_PP* | 1.50 |" in text
    assert "Not comparable" not in text
    weaker = comparison(records, ("PGD_N",), {**paper, ("none", "PGD_N"): 100.5})
    assert "PGD_N (weaker, -1.5)" in weaker


def test_attacks_are_in_the_order_of_their_numbers():
    records = [a_record(attack=name) for name in ("PGD_Nx100", "PGD_Nx40", "PGD_N")]
    rows = stress_tests(records, "c", "none").splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| PGD_N", "| PGD_Nx40", "| PGD_Nx100"]


def test_many_attacks_make_several_tables():
    attacks = ("PGD_N", "PGD_T", "CW_N", "DDN_N", "AA_N", "JSMA_T", "STA_N")
    tables = comparison([a_record(attack=name) for name in attacks], attacks, {}).split("\n\n")
    assert [table.splitlines()[0].count(" |") for table in tables] == [4, 5]
    assert all(any(f"| {name} " in table for table in tables) for name in attacks)


def test_the_papers_number_stands_only_beside_what_saw_the_same_attacks():
    cell = {
        "defence": "ARN", "attacked": "ARN+L", "attack": "PGD_T", "goal": "targeted", "eps": 0.3, "iterations": 40,
        "threat_model": "white_box", "error_rate": 58.52,
    }  # fmt: skip
    ours = {"attack": "PGD_T", "goal": "targeted", "errors": 50}
    hardened = {"defence": "ARN_W", "checkpoint": "mnist-hardened", "recipe": "hardened"}
    rows = adaptive([a_record(**ours), a_record(**ours, **hardened)], [cell]).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| ARN_PP (c)", "| ARN_W (mnist-hardened)"]
    assert rows[0].endswith("n 1,000 | 58.52 |")
    assert rows[1].endswith("n 1,000 |  |")
    assert "58.52" in adaptive([], [cell]), "of what we did not measure the paper's number is shown"


def test_the_weakest_numbers_are_the_largest_errors_of_each_kind():
    ours = {"checkpoint": "mnist-hardened", "defence": "ARN_W", "recipe": "hardened"}
    records = [
        a_record(**ours, threat_model="oblivious", attack="PGD_N", errors=20),
        a_record(**ours, threat_model="oblivious", attack="JSMA_T", norm="l0", eps=None, errors=350),
        a_record(**ours, threat_model="oblivious", attack="PGD_N_eps2", eps=0.4, errors=900),
        a_record(**ours, attack="PGD_N", errors=48),
        a_record(**ours, attack="SQUARE_N", errors=95),
        a_record(**ours, attack="PGD_N@0.5", eps=0.5, errors=1000),
        a_record(**ours, threat_model="bpda", attack="FWA_N", norm="wasserstein", eps=0.2, errors=415),
        a_record(**ours, attack="DDN_N", norm="l2", eps=None, errors=400),
        a_record(**ours, threat_model="oblivious", attack="none", eps=None, norm=None, errors=999),
    ]
    n = "<sub>n 1,000</sub>"
    row = weakest(records, ["mnist"]).splitlines()[-1]
    cells = [f"35.00 JSMA_T {n}", f"90.00 PGD_N_eps2 {n}", f"9.50 SQUARE_N {n}", "41.50 FWA_N <sub>BPDA, n 1,000</sub>"]
    assert row == f"| `mnist-hardened` | {' | '.join(cells)} |"
    assert weakest([a_record()], ["mnist"]) == "", "it is not released"


def test_numbers_of_different_images_are_named():
    few = a_record(n=304, errors=9, command="arn-train evaluate --every=33")
    half = a_record(command="arn-train evaluate --every 10")
    assert "n 1,000 is every 10th, n 304 is every 33rd.\n" in subsets([few, half, few])
    assert subsets([half, half]) == ""
