"""The page of commands: sorted by model, each command complete."""

from pathlib import Path

import pytest

from arn_purify.training.report.listing import commands_page, full_command

from ..subjects import a_record

RESULTS = Path(__file__).parents[3] / "results"


@pytest.mark.parametrize(
    ("command", "fields", "full"),
    [
        (
            "arn-train evaluate --attacks AA_N --every 10 --threat-models white_box --force",
            {"checkpoint": "mnist-transparent"},
            "--dataset mnist --classifier mnist-lenet5 --purifier mnist-transparent --attacks AA_N "
            "--threat-models white_box --every 10",
        ),
        (
            "arn-train evaluate --dataset=mnist --out results --purifier runs/then/purifier.safetensors",
            {"checkpoint": "mnist-transparent-plain"},
            "--dataset mnist --classifier mnist-lenet5 "
            "--purifier results/checkpoints/mnist-transparent-plain.safetensors",
        ),
        (
            "arn-train evaluate --robust-classifier runs/x/classifier.safetensors --classifier own:load",
            {"checkpoint": "x", "defence": "AT_PGD", "classifier": "own.load"},
            "--dataset mnist --classifier own:load --robust-classifier runs/x/classifier.safetensors",
        ),
        (
            "arn-train --import half evaluate --purifier runs/gone/purifier.safetensors",
            {"checkpoint": "gone", "classifier": "other"},
            "--dataset mnist --purifier runs/gone/purifier.safetensors",
        ),
    ],
)
def test_a_command_names_what_was_left_to_defaults_and_where_files_are_now(command, fields, full):
    program = command.partition("evaluate")[0] + "evaluate"
    assert full_command(a_record(command=command, **fields), RESULTS) == f"{program} {full}"


def test_commands_are_sorted_by_model():
    bare = {"defence": "none", "checkpoint": "identity", "recipe": ""}
    page = commands_page(
        [
            a_record(checkpoint="mnist-arn-pp", command="arn-train evaluate --attacks PGD_N"),
            a_record(checkpoint="mnist-transparent", command="arn-train evaluate --attacks PGD_N"),
            a_record(**bare, command="arn-train evaluate --purifier identity"),
            a_record(dataset="lisa", checkpoint="lisa-plain", command="arn-train evaluate --dataset lisa"),
            a_record(checkpoint="unknown", command=""),
        ],
        RESULTS,
    )
    heads = [line for line in page.splitlines() if line.startswith("##")]
    names = ["mnist without a defence", "mnist-transparent", "mnist-arn-pp"]
    assert heads == ["## MNIST", *(f"### {name}" for name in names), "## LISA", "### lisa-plain"]
    assert page.count("```sh\narn-train evaluate --dataset") == 4
