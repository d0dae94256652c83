"""The plan of the paper's MNIST half."""

from __future__ import annotations

from collections.abc import Iterator

from .plan import Plan, Scale, Step

CPU = Scale(
    every=3, robust=2, static=11, ablation=8, ablation_epochs=6, slow=10, slower=20, thorough=33,
    ablation_batch=("--batch-size", "128"),
)  # fmt: skip
GPU = Scale()
SMOKE = Scale(8, 16, 32, 16, 1, 1, 1, 30, 60, 100, 100, ("--batch-size", "32", "--watched", "20"))


class MnistPlan(Plan):
    """The paper's MNIST half, in front of the released LeNet-5."""

    def steps(self) -> Iterator[Step]:
        """See :meth:`Plan.steps`."""
        yield from self._oblivious("identity")  # crafts the sets that all others share
        yield from self._oblivious("mnist-transparent")
        for stage in ("transparent-plain", "augmented"):  # the stage before the released model, and its alternative
            spec = f"results/checkpoints/mnist-{stage}.safetensors"
            yield from self._oblivious(spec)
            yield from self.white_box("--purifier", spec, (60, 200))
        yield from self._white_box_of_ours()
        pp, dp = "PGD_N,PGD_T", "PGD_N,DDN_N"
        for name, seen, arch in (("ape-g-pp", pp, "ape-g"), ("hgd-pp", pp, "hgd")):
            yield from self._purifier(name, seen, "--arch", arch)
        yield from self._adaptive()
        doa = ("--recipe", "doa-7x7", "--init", "models/zoo/mnist-lenet5.safetensors", "--epochs", "3")
        yield from self._robust("doa-7x7", *doa)
        yield from self._robust("at-pgd", "--recipe", "at-pgd")
        yield from self._purifier("arn-dp", dp)
        yield from self._purifier("arn-pp", pp)
        yield from self._purifier("hgd-dp", dp, "--arch", "hgd")
        yield from self._purifier("ape-g-dp", dp, "--arch", "ape-g")
        yield from self.ablation("transparent", {"att": "0.1", "nor": "0.0001", "adv": "0.1"}, seconds=240)
        # On the number of seen attacks (section 4.3): one, two of different kinds, three, and one that is added later.
        yield from self._purifier("arn-p", "PGD_N")
        yield from self._purifier("arn-ps", "PGD_N,STA_N")
        yield from self._purifier("arn-pps", f"{pp},STA_N")
        yield from self._purifier("arn-pp-then-s", f"{pp},STA_N", "--init", self.kept("arn-pp"))
        yield from self._purifier("arn-pp-paper", pp, "--recipe", "paper")
        yield from self.ablation("paper", {"att": "0.1", "nor": "0.01", "adv": "0.1"}, seconds=240)
        detect = ("detect", *self.common, "--every", str(min(2, self.scale.slow)), "--out", str(self.results))
        yield Step((*detect, "--purifier", "mnist-transparent"), 60)

    def _purifier(self, name: str, seen: str, *arguments: str) -> Iterator[Step]:
        scale = self.scale
        budget = ["--every", str(scale.every), "--pools", str(self.runs / "pools")]
        if "STA" in seen:
            budget = ["--every", str(scale.static), "--static"]
        budget += self.epochs(scale.epochs)
        yield from self.trained(name, "purifier", 600, "--seen", seen, *budget, *arguments)
        yield from self._oblivious(self.kept(name))
        yield from self.white_box("--purifier", self.kept(name), (60, 200))

    def _robust(self, name: str, *arguments: str) -> Iterator[Step]:
        budget = ("--arch", "lenet5", "--every", str(self.scale.robust))
        yield from self.trained(name, "classifier", 900, *budget, *arguments, *self.scale.batch)
        yield from self._oblivious(self.kept(name), "--robust-classifier")
        yield from self.white_box("--robust-classifier", self.kept(name), (60, 200))

    def _oblivious(self, spec: str, kind: str = "--purifier") -> Iterator[Step]:
        scale, first = self.scale, spec == "identity"
        quick = "none,PGD_N,PGD_T,DDN_N,AA_N,PGD_N_eps2,AA_N_eps2,FWA_N,FWA_N_eps2"
        yield self.measure(spec, quick, scale.quick, 3600 if first else 60, kind=kind)
        yield self.measure(spec, "CW_N", scale.slow, 500 if first else 10, kind=kind)
        yield self.measure(spec, "JSMA_T,STA_N,STA_T", scale.slower, 2400 if first else 10, kind=kind)

    def _white_box_of_ours(self) -> Iterator[Step]:
        scale, white = self.scale, ("--threat-models", "white_box")
        sweep = "PGD_N@0.1,PGD_N@0.2,PGD_N@0.4,PGD_N@0.5,PGD_T@0.5,DDN_N"
        yield self.measure("mnist-transparent", "PGD_N,PGD_T", scale.quick, 600, *white)
        yield self.measure("mnist-transparent", sweep, scale.slow, 500, *white)
        yield self.measure("mnist-transparent", "AA_N", scale.slow, 120, *white)
        yield self.measure("mnist-transparent", "SQUARE_N", scale.slower, 300, *white)
        for approximate in ("bpda", "bpda_through"):
            yield self.measure("mnist-transparent", "PGD_N,PGD_Nx100", scale.slow, 120, "--threat-models", approximate)

    def _adaptive(self) -> Iterator[Step]:
        """Tables 3 and 4: APE-G and HGD attacked, and what they are as surrogates against ours."""
        scale = self.scale
        for name, attacks, every in (
            ("ape-g-pp", "PGD_T,PGD_T@0.5", scale.slow),
            ("hgd-pp", "PGD_T,PGD_T@0.5,DDN_T,DDN_N", scale.slow),
            ("ape-g-pp", "CW_T,CW_N", scale.slower),
        ):
            spec = self.kept(name)
            seconds = 900 if "CW" in attacks else 100
            yield self.measure(spec, attacks, every, seconds, "--threat-models", "white_box")
            gray = ("--threat-models", "gray_box", "--surrogate", spec)
            yield self.measure("mnist-transparent", attacks, every, 20, *gray)
        bpda = ("--threat-models", "bpda")
        yield self.measure(self.kept("ape-g-pp"), "PGD_N,PGD_Nx100", scale.slow, 120, *bpda)
