"""``arn-train craft``: attack a whole split once."""

from __future__ import annotations

import argparse

from .. import attacks
from ..attacks.craft import crafted_set
from ..load import try_out
from ..measuring.threats import Defended, Oblivious
from . import options


def add_parser(commands: options.Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser("craft", parents=[common], help="attack a whole split once")
    options.add_attacks(parser, ("PGD_N", "PGD_T", "DDN_N"))
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"])
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace, command: str) -> None:  # noqa: ARG001 (crafted sets have their own provenance)
    """Craft every attack and say how many images reached its goal."""
    dataset = options.dataset(flags)
    split = options.split(flags, dataset)
    classifier = options.load(flags, options.classifier(flags), "classifier", split.shape)
    try_out({"classifier": classifier}, dataset, flags.device)
    target = Oblivious().target(Defended(*classifier, *options.load(flags, "identity", "purifier", split.shape)))
    for name in flags.attacks:
        attack = attacks.get(name, flags.dataset)
        found = crafted_set(split, attack, target.by(attack), target.identity, flags.crafted, flags.seed, flags.device)
        share, flags_of = 100 * float(found.succeeded.float().mean()), " ".join(found.provenance.get("flags", ()))
        print(f"{name}: {share:.2f} % of {len(split)} reached the goal {flags_of}".rstrip())
