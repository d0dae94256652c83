"""``arn-train evaluate``: error rates as records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import attacks
from ..attacks import Attack
from ..data import Split, spec_of
from ..load import try_out
from ..measuring.evaluate import Subject, evaluate, over_http
from ..measuring.records import Record, read_all
from ..measuring.redflags import annotate
from ..measuring.threats import Bpda, GrayBox, Oblivious, ThreatModel, WhiteBox
from . import options


def add_parser(commands: options.Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", parents=[common], help="error rates as records")
    parser.add_argument("--purifier", help="name (mnist-transparent), path, identity or module:function")
    parser.add_argument("--robust-classifier", metavar="SPEC", help="a classifier that defends in --classifier's place")
    parser.add_argument("--surrogate", metavar="SPEC", help="the purifier that a gray_box attacker holds")
    options.add_attacks(parser, ("none", "PGD_N", "PGD_T", "DDN_N"))
    parser.add_argument(
        "--threat-models", type=options.names, default=("oblivious",), metavar="A,B",
        help="of oblivious, gray_box, white_box, bpda, bpda_through",
    )  # fmt: skip
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--via", metavar="URL", help="purify through this running service")
    parser.add_argument("--transport", default="npy", choices=["npy", "png"], help="how --via sends images")
    options.add_results_folder(parser)
    parser.add_argument("--force", action="store_true", help="measure again what has a record")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace, command: str) -> None:
    """Measure each attack under each threat model; on the test split each number becomes a record."""
    _check(flags)
    dataset, results = options.dataset(flags), options.results_folder(flags)
    split = options.split(flags, dataset)
    subject = _subject(flags, split)
    robust = subject.robust and subject.robust_card and (subject.robust, subject.robust_card)
    tried = {
        "classifier": (subject.classifier, subject.classifier_card),
        "purifier": (subject.purifier, subject.purifier_card),
        **({"robust classifier": robust} if robust else {}),
    }
    try_out(tried, dataset, flags.device)
    chosen = [None if name == "none" else attacks.get(name, flags.dataset) for name in flags.attacks]
    threat_models = [_threat_model(name, flags, split.shape) for name in flags.threat_models]
    records = list(read_all(results)) if flags.split == "test" else []
    standing = {record.path(results): record for record in records}
    measured: list[Path] = []
    for threat_model in threat_models:
        beside = {**threat_model.target(subject).settings, "transport": subject.transport}
        for attack in chosen:
            if attack is None and threat_model.name != "oblivious":
                continue  # natural images have no attacker
            known = _measured(records, subject, split, attack, threat_model, beside, flags.dataset)
            if known and spec_of(flags.dataset).kept_records and not flags.force:
                _say(_line(known) + ("" if known.seed == flags.seed else f"  seed {known.seed}"))
                _say(f"  measured already: {known.path(results)}; use --force or --out to measure again")
                _say_flags(known)
                continue
            record = evaluate(
                subject, split, attack, threat_model,
                dataset=flags.dataset, crafted=flags.crafted, seed=flags.seed, device=flags.device, command=command,
            )  # fmt: skip
            _say(_line(record))
            if flags.split == "test":
                path = record.path(results)
                if path in standing:
                    _say(f"  replaces {standing[path].error_rate:.2f} %, n {standing[path].n}")
                measured.append(record.write(results))
            else:
                _say_flags(record)
    for record in annotate(results) if measured else ():  # some follow from the other records
        if record.path(results) in measured:
            _say_flags(record)
    for folder in dict.fromkeys(path.parent for path in measured):
        # The default depends on where the command was started, so the whole path is shown.
        _say(f"records: {folder if flags.out else folder.resolve()}")


def _check(flags: argparse.Namespace) -> None:
    """Refuse what would measure nothing, and flags that nothing would read."""
    if not flags.attacks or not flags.threat_models:
        raise ValueError("nothing to measure: --attacks and --threat-models name at least one each")
    if set(flags.attacks) == {"none"} and "oblivious" not in flags.threat_models:
        raise ValueError("nothing to measure: natural images have no attacker who could see the purifier")
    if flags.surrogate and "gray_box" not in flags.threat_models:
        raise ValueError("--surrogate is the purifier of a gray_box attacker: no other threat model has one")
    if flags.transport != "npy" and not flags.via:
        raise ValueError("--transport is how --via sends images: no --transport without it")


def _line(record: Record) -> str:
    """One number as it is printed: what was attacked, the error with its interval and n."""
    low, high = record.ci95
    return (
        f"{record.defence:8} {record.attack:12} {record.threat_model:10} {record.error_rate:6.2f} % "
        f"[{low:.2f}, {high:.2f}]  n {record.n}"
    )


def _say_flags(record: Record) -> None:
    if record.flags:
        _say(f"flags of {record.attack} {record.threat_model}: {'; '.join(record.flags)}")


def _say(text: str) -> None:
    """Print a line that no progress bar writes over."""
    tqdm.write(text)
    sys.stdout.flush()


def _subject(flags: argparse.Namespace, split: Split) -> Subject:
    """What defends, and how images reach it."""
    f, f_card = options.load(flags, options.classifier(flags), "classifier", split.shape)
    robust = flags.robust_classifier
    if robust and flags.purifier not in (None, "identity"):
        raise ValueError("--robust-classifier is a defence of its own: no --purifier beside it")
    g, g_card = options.load(flags, "identity" if robust else options.purifier(flags), "purifier", split.shape)
    r, r_card = options.load(flags, robust, "classifier", split.shape) if robust else (None, None)
    blind = [name for name in flags.threat_models if name not in ("oblivious", "white_box")]
    if robust and (blind or flags.via):
        raise ValueError(f"--robust-classifier has no purifier for {blind[0] if blind else '--via'}")
    purify, transport = None, "in-process"
    if flags.via:
        purify, transport = over_http(flags.via, flags.transport, g_card.sha256), f"http+{flags.transport}"
    return Subject(f, f_card, g, g_card, r, r_card, purify, transport)


def _threat_model(name: str, flags: argparse.Namespace, shape: Sequence[int]) -> ThreatModel:
    match name:
        case "oblivious":
            return Oblivious()
        case "white_box":
            return WhiteBox()
        case "bpda":
            return Bpda()
        case "bpda_through":
            return Bpda("g")
        case "gray_box" if flags.surrogate:
            return GrayBox(*options.load(flags, flags.surrogate, "purifier", shape))
        case "gray_box":
            raise ValueError("gray_box needs the purifier that the attacker holds: --surrogate")
    raise ValueError(f"no threat model {name!r}: oblivious, gray_box, white_box, bpda, bpda_through")


def _measured(
    records: Sequence[Record], subject: Subject, split: Split, attack: Attack | None, threat_model: ThreatModel,
    beside: Mapping[str, Any], dataset: str,
) -> Record | None:  # fmt: skip
    """The record that makes measuring superfluous, if there is one: of as many images, whatever its seed."""
    name, eps, settings = (attack.name, attack.eps, attack.settings) if attack else ("none", None, {})
    hashes = {"classifier": subject.classifier_card.sha256, "checkpoint": subject.defence_card.sha256}
    code = attack.code_sha256 if attack else None
    for record in records:
        same = (
            (record.dataset, record.attack, record.threat_model, record.eps) == (dataset, name, threat_model.name, eps)
            and {**settings, **beside}.items() <= record.settings.items()
            and all(record.sha256.get(key, "") == value for key, value in hashes.items())
        )
        # The oldest records have no hash of their data, nor of the attack's code.
        if not same or record.sha256.get("attack", code) != code:
            continue
        if record.n != len(split) or record.sha256.get("data") in (None, split.sha256()):
            return record if record.n >= len(split) else None
    return None
