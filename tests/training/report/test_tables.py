"""Tables: their Markdown, and the paper's rows beside ours."""

from arn_purify.training.report.markdown import markdown_table
from arn_purify.training.report.tables import by_attack, comparison

from ..subjects import a_record


def test_numbers_are_aligned_to_the_right():
    assert markdown_table(["name", "n"], [["a", "1"], ["b", ""]]) == "| name | n |\n| --- | ---: |\n| a | 1 |\n| b |  |"


def test_the_difference_to_the_paper_needs_its_target_and_its_attack():
    bare = {"defence": "none", "checkpoint": "identity", "recipe": ""}
    records = [a_record(errors=20), a_record(**bare, errors=990)]
    paper = {("ARN_PP", "PGD_N"): 1.5, ("none", "PGD_N"): 99.2}
    text = comparison(records, ("PGD_N",), paper)
    assert "| *the paper's ARN_PP* | 1.50 |" in text
    assert "difference to the paper's* | +0.50 |" in text
    assert "difference" not in comparison(records, ("PGD_N",), paper, same_target=False)
    weaker = comparison(records, ("PGD_N",), {**paper, ("none", "PGD_N"): 100.5})
    assert "difference to the paper's* |  |" in weaker
    assert "PGD_N (undefended -1.5 points: a weaker attack)" in weaker


def test_attacks_are_in_the_order_of_their_numbers():
    records = [a_record(attack=name) for name in ("PGD_Nx100", "PGD_Nx40", "PGD_N")]
    rows = by_attack(records).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| PGD_N", "| PGD_Nx40", "| PGD_Nx100"]
