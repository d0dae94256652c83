"""``arn-train craft | train | evaluate | detect | figures | tables | export | convert | import-lisa``."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import logging
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from arn_purify import models
from arn_purify.models import ApeGConfig, ArnConfig, Card, CheckpointError, HgdConfig, card_of, checkpoint
from arn_purify.models.arn import Architecture
from arn_purify.models.checkpoint import Kind
from arn_purify.models.precision import multiplies_bf16

from . import attacks, data
from .attacks.adaptive import as_learned
from .convert import convert
from .data import DATASETS, Dataset
from .data.loaders.lisa import import_lisa
from .export import export
from .learning.classifier import CLASSIFIER_RECIPES, NETWORKS, train_classifier
from .learning.recipes import RECIPES, LossWeights, Recipe, default_recipe
from .learning.trainer import PurifierConfig, TrainConfig, Trainer, join_process_group
from .load import load_model
from .measuring import lid
from .measuring.craft import crafted_set, versions
from .measuring.evaluate import Subject, evaluate, over_http
from .measuring.records import read_all
from .measuring.redflags import annotate
from .measuring.threats import Bpda, Defended, GrayBox, Oblivious, ThreatModel, WhiteBox
from .report import figures, pages

_PURIFIERS = (*get_args(Architecture), "ape-g", "hgd")
# Of the compact network, each a flag and a field of its configuration.
_SHAPE = ("width", "code_channels", "blocks")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none: cpu, cuda or cuda:INDEX")
    return text


def _weights(text: str) -> tuple[tuple[str, float], ...]:
    known = [field.name for field in dataclasses.fields(LossWeights)]
    pairs = [part.partition("=") for part in _names(text)]
    if any(term not in known for term, _, _ in pairs):
        raise argparse.ArgumentTypeError(f"terms are {', '.join(known)}")
    return tuple((term, float(weight)) for term, _, weight in pairs)


def _fields(text: str) -> tuple[tuple[str, float | int], ...]:
    known = {f.name: {"int": int, "float": float}.get(str(f.type)) for f in dataclasses.fields(Recipe)}
    numbers = {name: number for name, number in known.items() if number}
    pairs = [part.partition("=") for part in _names(text)]
    if any(name not in numbers for name, _, _ in pairs):
        raise argparse.ArgumentTypeError(f"a recipe's numbers are {', '.join(numbers)}")
    return tuple((name, numbers[name](value)) for name, _, value in pairs)


def _decimal(weight: float) -> str:
    """Without an exponent, whose sign would split the name of a recipe."""
    return f"{weight:.12f}".rstrip("0").rstrip(".")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dataset", default="mnist", choices=DATASETS)
    common.add_argument("--data-dir", type=Path, help="where the data are, or are downloaded to (ARN_DATA_DIR, data/)")
    common.add_argument("--size", type=int, default=28, help="pixels that images of --dataset folder are resized to")
    common.add_argument("--classifier", help="target f: name, path or module:function (the data set's that ships)")
    common.add_argument("--device", type=_device, default="cpu", help="cpu or cuda")
    common.add_argument("--seed", type=int, default=0)
    common.add_argument("--every", type=int, default=1, help="take every k-th image of the split")
    common.add_argument("--crafted", type=Path, default=Path("data/crafted"), help="folder of crafted sets")

    parser = argparse.ArgumentParser("arn-train", description="Craft attacks, train ARN, measure both.")
    commands = parser.add_subparsers(dest="command", required=True)

    craft = commands.add_parser("craft", parents=[common], help="attack a whole split once")
    craft.add_argument("--attacks", type=_names, default=("PGD_N", "PGD_T", "DDN_N"))
    craft.add_argument("--split", default="test", choices=["train", "validation", "test"])

    train = commands.add_parser("train", parents=[common], help="train a purifier or a classifier, as --arch says")
    train.add_argument(
        "--arch",
        help=f"{', '.join(_PURIFIERS)} (compact on grey, colour on colour); {', '.join(NETWORKS)}",
        choices=[*_PURIFIERS, *NETWORKS],
        metavar="NAME",
    )
    train.add_argument(
        "--recipe",
        choices=sorted([*RECIPES, *CLASSIFIER_RECIPES]),
        metavar="NAME",
        help="of the data set and the architecture, unless named: one of %(choices)s",
    )
    train.add_argument("--seen", type=_names, help="attacks to learn from, instead of the recipe's")
    train.add_argument("--init", type=Path, help="go on from this checkpoint's weights")
    train.add_argument("--out", type=Path, required=True, help="run folder; a run that was killed goes on there")
    train.add_argument("--width", type=int, help="of the compact network; 32 otherwise")
    train.add_argument("--code-channels", type=int, help="of the compact network; 32 otherwise")
    train.add_argument(
        "--blocks", type=int, help="residual blocks on each side of the compact network's code; 1 otherwise"
    )
    train.add_argument("--epochs", type=int, help="instead of the recipe's")
    train.add_argument("--batch-size", type=int, help="instead of the recipe's")
    train.add_argument("--save-seconds", type=float, default=60.0, help="how often the state is saved")
    train.add_argument(
        "--weights", type=_weights, default=(), help="of loss terms instead of the recipe's: att=0,adv=.1"
    )
    train.add_argument(
        "--with", type=_fields, default=(), dest="fields", metavar="FIELD=NUMBER,...",
        help="other numbers of the recipe: inner_steps=20,ema=0",
    )  # fmt: skip
    train.add_argument("--watched", type=int, default=1000, help="validation images looked at after each epoch")
    train.add_argument("--static", action="store_true", help="craft the seen attacks once, against unshifted images")
    train.add_argument("--pools", type=Path, help="keep what is crafted while training here, for other runs too")
    train.add_argument("--surrogate", metavar="SPEC", help="a second classifier, attacked for every other batch")
    train.add_argument("--compile", action="store_true", help="torch.compile a classifier's training step")
    train.add_argument(
        "--fp32", action="store_true", help="no bf16 autocast in training, though the device gains by it"
    )

    measure = commands.add_parser("evaluate", parents=[common], help="error rates as records")
    measure.add_argument("--purifier", help="name (mnist-transparent), path, identity or module:function")
    measure.add_argument(
        "--robust-classifier", metavar="SPEC", help="a classifier that defends in --classifier's place"
    )
    measure.add_argument("--surrogate", metavar="SPEC", help="the purifier that a gray_box attacker holds")
    measure.add_argument("--attacks", type=_names, default=("none", "PGD_N", "PGD_T", "DDN_N"))
    measure.add_argument(
        "--threat-models", type=_names, default=("oblivious",), metavar="A,B",
        help="of oblivious, gray_box, white_box, bpda, bpda_through",
    )  # fmt: skip
    measure.add_argument("--split", default="test", choices=["validation", "test"])
    measure.add_argument("--via", metavar="URL", help="purify through this running service")
    measure.add_argument("--transport", default="npy", choices=["npy", "png"], help="how --via sends images")
    measure.add_argument("--out", type=Path, default=Path("results"))
    measure.add_argument("--force", action="store_true", help="measure again what has a record")

    table = commands.add_parser("tables", help="write every table from the records")
    table.add_argument("--results", type=Path, default=Path("results"))
    table.add_argument("--check", action="store_true", help="fail if a table is not what the records say")

    other = commands.add_parser("convert", help="a checkpoint as ONNX (.onnx) or torch.export's archive (.pt2)")
    other.add_argument("source", help="shipped name or path")
    other.add_argument("target", type=Path, help="file to write; its ending says what")

    detect = commands.add_parser("detect", parents=[common], help="whether LID detection still sees purified images")
    detect.add_argument("--purifier", help="name, path or module:function (the data set's that ships)")
    detect.add_argument("--attack", default="PGD_N")
    detect.add_argument("--out", type=Path, default=Path("results"))

    draw = commands.add_parser("figures", parents=[common], help="draw the pictures of documents and model cards again")
    draw.add_argument("--purifier", default="mnist-transparent", help="name or path")
    draw.add_argument("--out", type=Path, default=Path("docs/figures"))

    bring = commands.add_parser("import-lisa", help="LISA from a copy of your own into the data folder")
    bring.add_argument("source", type=Path, help="folder with allAnnotations.csv, or of CLASS/[TRACK/] crops")
    bring.add_argument("--data-dir", type=Path, help="where the data are (ARN_DATA_DIR, data/)")

    ship = commands.add_parser("export", parents=[common], help="round a run to fp16, measure it, write its card")
    ship.add_argument("source", type=Path, help="a run's checkpoint")
    ship.add_argument("--name", required=True)
    ship.add_argument("--out", type=Path, default=Path("models/zoo"))
    return parser


def _shipped(dataset: str) -> tuple[str, str]:
    """The classifier and the purifier that stand for a data set where none is named."""
    colour = {"cifar10": ("cifar10-resnet20", "cifar10-transparent"), "lisa": ("lisa-cnn", "lisa-transparent")}
    return colour.get(dataset, ("mnist-lenet5", "mnist-transparent"))


def _dataset(flags: argparse.Namespace) -> Dataset:
    if flags.every < 1:
        raise ValueError("--every counts from 1")
    return data.load(flags.dataset, flags.data_dir, flags.size)


def _train(flags: argparse.Namespace, command: str) -> None:
    flags.device = join_process_group(flags.device)
    dataset = _dataset(flags)
    dataset = dataclasses.replace(dataset, train=dataset.train.every(flags.every))
    mixed_precision = multiplies_bf16(flags.device) and not flags.fp32
    usual = "compact" if dataset.shape[0] == 1 else "colour"
    arch: Any = flags.arch or usual
    ours = arch in ("compact", "colour", "skips")
    kind: Kind = "classifier" if arch in NETWORKS else "purifier"
    initial = load_model(str(flags.init), kind, dataset.name, "cpu", dataset.shape)[0] if flags.init else None
    overrides = {k: v for k, v in {"epochs": flags.epochs, "batch_size": flags.batch_size}.items() if v is not None}
    if kind == "classifier":
        of_purifiers = ("seen", "weights", "fields", "static", "surrogate", "pools", *_SHAPE)
        if unread := [name for name in of_purifiers if getattr(flags, name) not in (None, (), False)]:
            raise ValueError(f"--arch {arch} is a classifier: no {', '.join(unread)}")
        if "RANK" in os.environ:
            raise ValueError("a classifier is trained by one process, not under torchrun")
        make = CLASSIFIER_RECIPES.get(flags.recipe or "natural")
        if make is None:
            raise ValueError(f"--arch {arch} takes --recipe {', '.join(CLASSIFIER_RECIPES)}, not {flags.recipe}")
        recipe = dataclasses.replace(make(arch, dataset.name), seed=flags.seed, **overrides)
        recipe = dataclasses.replace(recipe, mixed_precision=recipe.mixed_precision and mixed_precision)
        model = train_classifier(dataset, recipe, flags.device, initial, flags.out, arch, flags.compile)
        architecture, config, _ = checkpoint.architecture_of(model)
        card = Card(
            flags.out.name, kind, architecture, config, dataset.name, dataset.shape, recipe=recipe.name,
            step=recipe.epochs * math.ceil(len(dataset.train) / recipe.batch_size),
            seen_attacks=(recipe.adversary.describe(),) if recipe.adversary else (),
            class_names=dataset.class_names, seed=flags.seed, command=command, versions=versions(),
        )  # fmt: skip
        checkpoint.save(model, card, flags.out / "classifier.safetensors")
        return
    if flags.compile:
        raise ValueError("--compile is for classifiers")
    chosen = flags.recipe or default_recipe(arch, dataset.name)
    if chosen not in RECIPES:
        raise ValueError(f"recipe {chosen} is for a classifier")
    recipe_ = dataclasses.replace(RECIPES[chosen](), **{**overrides, **dict(flags.fields)})
    # A run that is not the recipe as it is known says so in its name.
    departs = arch != usual if ours else chosen != (arch if arch == "released" else default_recipe(arch, dataset.name))
    name = recipe_.name + (f"-{arch}" if departs else "")
    name += "".join(f"-{term}{_decimal(weight)}" for term, weight in (*flags.weights, *flags.fields))
    shape = {key: value for key in _SHAPE if (value := getattr(flags, key)) is not None}
    name += "".join(f"-{key.replace('_', '')}{value}" for key, value in shape.items())
    if shape and arch != "compact":
        raise ValueError(f"--arch {arch} has a shape of its own: no --width, --code-channels or --blocks")
    if flags.static:
        once = dataclasses.replace(recipe_, refresh_epochs=0, shift=0, flip=False, budgets=None)
        name, recipe_ = f"{name}-static", once
    if overrides or flags.static or flags.every > 1:
        name = f"{name}-{recipe_.epochs * (len(dataset.train) // recipe_.batch_size)}"
    stickers = dataset.name.startswith("lisa") and not recipe_.inner_steps
    seen = flags.seen or (("AP_1", "AP_2") if stickers else recipe_.seen)
    if recipe_.inner_steps and (flags.static or flags.surrogate or dict(flags.fields).get("refresh_epochs")):
        raise ValueError(f"recipe {chosen} attacks g as it stands: no --static, --surrogate or refresh_epochs")
    if recipe_.inner_steps and seen != recipe_.seen:
        name = f"{name}-{'+'.join(seen)}"
    specs = _names(flags.classifier)
    if len(specs) > 1:
        name = f"{name}-{len(specs)}f"
    if initial and not (recipe_.continues and recipe_.continues == card_of(initial).recipe):
        name = f"{name}-from-{card_of(initial).name}"
    elif recipe_.continues and not initial:
        name = f"{name}-from-nothing"
    surrogate: tuple[nn.Module, str] | None = None
    if flags.surrogate:
        second, second_card = load_model(flags.surrogate, "classifier", dataset.name, flags.device, dataset.shape)
        surrogate = (second, second_card.sha256)
        name = f"{name}-and-{second_card.name.removeprefix(f'{dataset.name}-')}"
    if flags.seed:
        name = f"{name}-seed{flags.seed}"
    classifiers, cards = zip(
        *(load_model(spec, "classifier", dataset.name, flags.device, dataset.shape) for spec in specs), strict=True
    )
    if len(cards) == 1 and not data.spec_of(dataset.name).is_target(cards[0].name):
        name = f"{name}-before-{cards[0].name.removeprefix(f'{dataset.name}-')}"
    weights = dataclasses.replace(recipe_.weights, **dict(flags.weights))
    recipe_ = dataclasses.replace(recipe_, name=name, weights=weights)
    by_name = [attacks.get(attack, dataset.name) for attack in seen]
    learned = [as_learned(a, recipe_) if recipe_.inner_steps else attacks.for_training(a) for a in by_name]
    channels, size, _ = dataset.shape
    network: PurifierConfig
    match arch:
        case "ape-g":
            network = ApeGConfig.preset(channels, size)
        case "hgd":
            network = HgdConfig.preset(channels, size)
        case _:
            network = dataclasses.replace(ArnConfig.preset(arch, channels, size), **shape)
    Trainer(
        TrainConfig(network, recipe_, tuple(learned), flags.seed, flags.device, mixed_precision),
        dataset,
        classifiers[0],
        "+".join(card.sha256 for card in cards),
        flags.out,
        command,
        initial,
        flags.save_seconds,
        flags.pools,
        surrogate,
        classifiers[1:],
        flags.watched,
        flags.crafted,
    ).fit()


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
            return GrayBox(*load_model(flags.surrogate, "purifier", flags.dataset, flags.device, shape))
        case "gray_box":
            raise ValueError("gray_box needs the purifier that the attacker holds: --surrogate")
    raise ValueError(f"no threat model {name!r}: oblivious, gray_box, white_box, bpda, bpda_through")


def _evaluate(flags: argparse.Namespace, command: str) -> None:
    split = _dataset(flags).split(flags.split).every(flags.every)
    given = (flags.dataset, flags.device, split.images.shape[1:])
    f, f_card = load_model(flags.classifier, "classifier", *given)
    robust, purifier = flags.robust_classifier, flags.purifier
    if robust and purifier not in (None, "identity"):
        raise ValueError("--robust-classifier is a defence of its own: no --purifier beside it")
    g, g_card = load_model("identity" if robust else purifier or _shipped(flags.dataset)[1], "purifier", *given)
    r, r_card = load_model(robust, "classifier", *given) if robust else (None, None)
    blind = [name for name in flags.threat_models if name not in ("oblivious", "white_box")]
    if robust and (blind or flags.via):
        raise ValueError(f"--robust-classifier has no purifier for {blind[0] if blind else '--via'}")
    purify, transport = None, "in-process"
    if flags.via:
        purify, transport = over_http(flags.via, flags.transport, g_card.sha256), f"http+{flags.transport}"
    subject = Subject(f, f_card, g, g_card, r, r_card, purify, transport)
    chosen = [None if name == "none" else attacks.get(name, flags.dataset) for name in flags.attacks]
    threat_models = [_threat_model(name, flags, split.images.shape[1:]) for name in flags.threat_models]
    hashes = {"classifier": f_card.sha256, "checkpoint": subject.defence_card.sha256}
    data = split.sha256()
    records = list(read_all(flags.out)) if flags.split == "test" else []
    for threat_model in threat_models:
        beside = {**threat_model.target(subject).settings, "transport": subject.transport}
        for attack in chosen:
            if attack is None and threat_model.name != "oblivious":
                continue  # natural images have no attacker
            name, eps, settings = (attack.name, attack.eps, attack.settings) if attack else ("none", None, {})
            here = [
                m for m in records
                if (m.dataset, m.attack, m.threat_model, m.eps) == (flags.dataset, name, threat_model.name, eps)
                and {**settings, **beside}.items() <= m.settings.items()
                and all(m.sha256[key] == value for key, value in hashes.items())
                and (m.n != len(split) or m.sha256.get("data", data) == data)  # older records have none
            ]  # fmt: skip
            # Fewer images or other random numbers do not replace what is there; a folder's name says nothing of it. So
            # many may, where what is there is older than the measures.
            enough = here and (here[0].n > len(split) or (here[0].n == len(split) and bool(here[0].measures)))
            if enough and flags.dataset != "folder" and not flags.force:
                other = "" if here[0].seed == flags.seed else f", with seed {here[0].seed}"
                print(f"{name} {threat_model.name}: measured already, n {here[0].n}{other}")
                continue
            record = evaluate(
                subject, split, attack, threat_model,
                dataset=flags.dataset, crafted=flags.crafted, seed=flags.seed, device=flags.device, command=command,
            )  # fmt: skip
            low, high = record.ci95
            print(
                f"{record.defence:8} {record.attack:12} {record.threat_model:10} {record.error_rate:6.2f} % "
                f"[{low:.2f}, {high:.2f}]  n {record.n}  {' '.join(record.flags)}"
            )
            if flags.split == "test":
                record.write(flags.out)
    if flags.split == "test":
        annotate(flags.out)


def _detect(flags: argparse.Namespace, command: str) -> None:
    dataset, attack = _dataset(flags), attacks.get(flags.attack, flags.dataset)
    f, f_card = load_model(flags.classifier, "classifier", flags.dataset, flags.device, dataset.shape)
    purifier = flags.purifier or _shipped(flags.dataset)[1]
    g, g_card = load_model(purifier, "purifier", flags.dataset, "cpu", dataset.shape)
    defended, pairs = Defended(f, f_card, g, g_card), []
    target = Oblivious().target(defended)
    for split in (dataset.validation.every(flags.every), dataset.test.every(flags.every)):
        found = crafted_set(split, attack, target.by(attack), target.identity, flags.crafted, flags.seed, flags.device)
        pairs.append((split.batch(slice(None))[0], found.images))
    f = f.cpu()
    detection = lid.detect(f, g, pairs[0], pairs[1], flags.seed)
    row = defended.name
    fields = {
        "dataset": dataset.name, "classifier": f_card.name.removeprefix(f"{dataset.name}-"), "defence": row,
        "recipe": g_card.recipe, "checkpoint": g_card.name, "attack": attack.name, "fitted_on": len(pairs[0][0]),
        "n": len(pairs[1][0]), "seed": flags.seed, "command": command, "versions": versions(),
        "sha256": {"classifier": f_card.sha256, "checkpoint": g_card.sha256},
    }  # fmt: skip
    folder = f"{row}-{g_card.recipe}" if g_card.recipe else row
    place = flags.out / dataset.name / str(fields["classifier"]) / folder
    lid.record(detection, fields, place / f"lid-{attack.name}.json")
    print(" ".join(f"{k} {v:.2f}" for k, v in dataclasses.asdict(detection).items()))


def _run(flags: argparse.Namespace, command: str) -> int:
    if flags.command == "tables":
        stale = pages.update(flags.results, check=flags.check)
        if stale and flags.check:
            print(f"arn-train: stale: {', '.join(map(str, stale))}; run `arn-train tables`", file=sys.stderr)
            return 1
    elif flags.command == "train":
        _train(flags, command)
    elif flags.command == "evaluate":
        _evaluate(flags, command)
    elif flags.command == "convert":
        print(f"{flags.target}: at most {convert(flags.source, flags.target):.1g} from torch's answers")
    elif flags.command == "detect":
        _detect(flags, command)
    elif flags.command == "figures":
        f, _ = load_model(flags.classifier, "classifier", "digits", "cpu")
        g, _ = load_model(flags.purifier, "purifier", "digits", "cpu")
        figures.draw_pictures(f, g, flags.out, flags.seed)
        for shipped in map(models.load, models.available()):
            if figures.has_sheet(card_of(shipped)):
                figures.draw_sheet(f, shipped, models.ZOO, flags.seed)
    elif flags.command == "import-lisa":
        train, test = import_lisa(flags.source, data.folder(flags.data_dir))
        print(f"{train} crops to train on, {test} to test on")
    elif flags.command == "craft":
        split = _dataset(flags).split(flags.split).every(flags.every)
        shape = split.images.shape[1:]
        attacked = load_model(flags.classifier, "classifier", flags.dataset, flags.device, shape)
        undefended = load_model("identity", "purifier", flags.dataset, flags.device, shape)
        target = Oblivious().target(Defended(*attacked, *undefended))
        for name in flags.attacks:
            attack = attacks.get(name, flags.dataset)
            found = crafted_set(
                split, attack, target.by(attack), target.identity, flags.crafted, flags.seed, flags.device
            )
            print(f"{name}: {100 * float(found.succeeded.float().mean()):.2f} % of {len(split)} reached the goal")
    else:
        dataset = _dataset(flags)
        dataset = dataclasses.replace(dataset, validation=dataset.validation.every(flags.every))
        card = export(flags.source, flags.name, flags.out, dataset, flags.classifier, flags.crafted, flags.device)
        print(f"{card.name} {card.sha256[:12]}", {k: round(v, 2) for k, v in card.metrics.items()})
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    _keep_memory()
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel("WARNING")  # or a line for each of 10,000 uploads
    arguments = sys.argv[1:] if arguments is None else arguments
    flags = _parser().parse_args(arguments)
    if "classifier" in flags:
        flags.classifier = flags.classifier or _shipped(flags.dataset)[0]
    command = shlex.join(["arn-train", *_portable(arguments)])
    try:
        kind, _, index = str(vars(flags).get("device")).partition(":")
        if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
            raise ValueError(f"--device {flags.device}: torch sees no such device")
        return _run(flags, command)
    except (OSError, ValueError, CheckpointError) as error:
        print(f"arn-train: {error}", file=sys.stderr)
        return 2


def _keep_memory() -> None:
    """Keep freed memory, where the C library is glibc: it else gives large tensors back and faults them in anew."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _portable(arguments: Sequence[str]) -> list[str]:
    """The arguments without the folder that this machine keeps its data in."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and not argument.startswith("--data-dir"):
            kept.append(argument)
        skip = argument == "--data-dir"
    return kept


if __name__ == "__main__":
    sys.exit(main())
