"""Tables: their Markdown, and the paper's rows beside ours."""

from arn_purify.training.report.markdown import markdown_table
from arn_purify.training.report.tables import comparison, stress_tests

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
