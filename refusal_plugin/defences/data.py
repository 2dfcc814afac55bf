"""What defences are fitted on: the training and validation prompts of one model, with every stream computed once.

A fit seed draws a share of the training pairs, whole pair groups at a time, so that several seeds give several fits;
streams are kept per prompt, so seeds and methods share them. Nothing of the test split gets in.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..directions.direction import SAME, Candidates, Direction
from ..directions.selection import select_direction
from ..errors import DirectionError, PromptError
from ..evaluation.refusal_tokens import RefusalTokens, refusal_tokens
from ..inference.activations import collect_activations
from ..inference.prefix import collect_variants
from ..models import anatomy
from ..models.provenance import provenance
from ..progress import Progress
from ..prompts import EVERY_MODALITY, MODALITIES, Modality, Prompt, PromptSet
from ..prompts.neutral import neutral_prompts
from ..report.shown import Shown

SHARE = 0.8
"""Share of the training pairs that one fit seed draws."""


@dataclass(frozen=True, eq=False)
class DefenceData(Shown):
    """Prompts to fit on, and their residual streams.

    Attributes:
        model: the loaded model.
        prompts: training and validation prompts of all modalities; no test prompts.
        tokens: the model's refusal tokens, from all training text.
        seed: which pairs are drawn.
        share: share of the training pairs drawn.
        limit: most training prompts per modality and role.
        progress: of the forward passes.
        remote: where streams are read.
        wanted: modalities in which a defence will act; None for all that the model takes.
        memory: what methods keep about single prompts, shared by all seeds.
    """

    model: Any
    prompts: PromptSet
    tokens: RefusalTokens
    seed: int = 0
    share: float = SHARE
    limit: int = 128
    progress: Progress = False
    remote: bool | str = False
    wanted: tuple[Modality, ...] | None = None
    _streams: dict[tuple[str, str, str | None, str | None], Tensor] = field(default_factory=dict, repr=False)
    _arms: dict[tuple[str, str, str], Tensor] = field(default_factory=dict, repr=False)
    _made: dict[str, Any] = field(default_factory=dict, repr=False)
    memory: dict[str, Any] = field(default_factory=dict, repr=False)

    def finding(self) -> str:
        drawn = f"seed {self.seed} draws {100 * self.share:.0f} % of the training pairs"
        return f"{self.prompts.finding()}; of {anatomy(self.model).name}, {drawn}"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per prompt."""
        return self.prompts.records()

    @classmethod
    def of(
        cls,
        model: Any,
        prompts: PromptSet,
        seed: int = 0,
        *,
        tokens: RefusalTokens | None = None,
        share: float = SHARE,
        limit: int = 128,
        progress: Progress = False,
        remote: bool | str = False,
        wanted: Iterable[Modality] | None = None,
    ) -> "DefenceData":
        """Data of a model.

        Args:
            model: a loaded model.
            prompts: with splits and roles; harmful and benign text of "train" and "val" are needed, training media for
                the methods that see media. Test prompts are left out here.
            seed: which pairs are drawn.
            tokens: refusal tokens if they are known already.
            share: share of the training pairs drawn, in (0, 1].
            limit: most training prompts per modality and role.
            progress: None shows bars where somebody can see them.
            remote: read streams, and refusal tokens, on NDIF: one request for each call of `streams` that asks for
                something new.
            wanted: modalities in which the defences will act: what neutral media bring is read for these alone. None
                for all that the model takes.

        Raises:
            PromptError: text of a role is missing from a split, or the share or limit is out of range.
            DataError: the model refuses nothing.
        """
        if not 0 < share <= 1 or limit < 2:
            raise PromptError(
                "data for defences", f"share = {share}, limit = {limit}", "use 0 < share <= 1, limit >= 2"
            )
        kept = PromptSet.of(prompts, "data for defences").assigned().filter(split=("train", "val"))
        for split in ("train", "val"):
            for role in ("harmful", "benign"):
                if not len(kept.filter(split=split, role=role, modality="text")):
                    raise PromptError("data for defences", f"no {role} text in split '{split}'", "add some prompts")
        text = kept.filter(split="train", modality="text")
        found = tokens or refusal_tokens(model, text, remote=remote, progress=progress)
        chosen = None if wanted is None else tuple(wanted)
        return cls(model, kept, found, seed, share, limit, progress, remote, chosen)

    def reseed(self, seed: int) -> "DefenceData":
        """Another draw of pairs that shares every stream computed so far."""
        return replace(self, seed=seed, _made={})

    # -- prompts -------------------------------------------------------------------------------------------------------
    def train(self, modality: Modality | Iterable[Modality] = "text", *roles: str) -> PromptSet:
        """The drawn training prompts of a modality, at most `limit` per modality and role.

        Raises:
            PromptError: none of a role.
        """
        wanted = (modality,) if isinstance(modality, str) else tuple(modality)
        every = self.prompts.filter(split="train")
        pairs = sorted({p.pair for p in every})
        random.Random(self.seed).shuffle(pairs)
        drawn = pairs[: max(2, round(self.share * len(pairs)))]
        rank = {pair: k for k, pair in enumerate(drawn)}
        found: list[Prompt] = []
        for kind in wanted:
            for role in roles or ("harmful", "benign", "near_miss"):
                cell = [p for p in every if p.modality == kind and p.role == role and p.pair in rank]
                cell.sort(key=lambda p: (rank[p.pair], p.id))
                if roles and not cell:
                    raise PromptError(
                        f"fit a defence on {role} {kind} of split 'train'",
                        "there are none among the prompts",
                        f"pass training prompts with {kind}",
                    )
                found += cell[: self.limit]
        return PromptSet(found)

    def val(self, *roles: str) -> PromptSet:
        """Validation TEXT; every role by default.

        Raises:
            PromptError: none of a role.
        """
        found = self.prompts.where(
            lambda p: p.split == "val" and p.modality == "text" and (not roles or p.role in roles)
        )
        for role in roles:
            if not any(p.role == role for p in found):
                raise PromptError("fit a defence", f"no {role} text in split 'val'", "pass some")
        return found

    @property
    def media(self) -> tuple[Modality, ...]:
        """Modalities other than text of which there are harmful and safe training prompts."""
        have = {(p.modality, p.role == "harmful") for p in self.prompts if p.split == "train" and p.role is not None}
        return tuple(m for m in self.shown if {(m, True), (m, False)} <= have)

    @property
    def shown(self) -> tuple[Modality, ...]:
        """Modalities other than text: the media that the model takes, and the mixtures of them among the prompts."""
        mixed, wanted = self.prompts.modalities, EVERY_MODALITY if self.wanted is None else self.wanted
        takes = [m for m in EVERY_MODALITY[1:] if m in wanted and anatomy(self.model).takes(m)]
        return tuple(m for m in takes if m in MODALITIES or m in mixed)

    def paired(self, modality: Modality) -> tuple[PromptSet, PromptSet]:
        """Harmful training prompts and their safe partners, row by row: same pair, benign before near miss.

        Raises:
            PromptError: harmful prompts without a safe partner in their pair, all of them.
        """
        harmful = self.train(modality, "harmful")
        partners: dict[str, list[Prompt]] = {}
        for p in self.prompts.filter(split="train", modality=modality, role=("benign", "near_miss")):
            partners.setdefault(p.pair, []).append(p)
        for options in partners.values():
            options.sort(key=lambda p: (p.role != "benign", p.id))
        unsafe, safe, used = [], [], set()
        for p in harmful:
            free = [q for q in partners.get(p.pair, []) if q.id not in used]
            if free:
                used.add(free[0].id)
                unsafe.append(p)
                safe.append(free[0])
        if not unsafe:
            raise PromptError(
                f"pair {len(harmful)} harmful {modality} prompts with safe ones",
                "no safe training prompt shares a pair with any of them",
                "give both the same `pair`",
            )
        return PromptSet(unsafe), PromptSet(safe)

    # -- what the model makes of them --------------------------------------------------------------------------------
    def streams(
        self, prompts: Iterable[Prompt], *, suffix: str | None = None, system: str | None = None
    ) -> Float[Tensor, "prompt layer d_model"]:
        """`resid_post` of every layer at the last prompt token, each prompt computed once.

        Args:
            prompts: with unique ids; the same id is taken to be the same prompt.
            suffix: text appended inside the user turn.
            system: system text.
        """
        chosen = list(prompts)
        keys = {p.id: (p.id, p.text, suffix, system) for p in chosen}
        missing = [p for p in chosen if keys[p.id] not in self._streams]
        if missing:
            options: dict[str, Any] = {"system": system, "progress": self.progress}
            if self.remote:
                read = collect_activations(self.model, missing, suffix=suffix, remote=self.remote, **options)
                found = read.values[:, 0]
            else:  # a medium that comes with many texts is read once
                (found,) = collect_variants(self.model, missing, (suffix,), **options)
            for p, value in zip(missing, found, strict=True):
                self._streams[keys[p.id]] = value.clone()
        if not chosen:
            raise PromptError("collect activations", "0 prompts", "give at least one")
        return torch.stack([self._streams[keys[p.id]] for p in chosen])

    def arms(
        self, prompts: Iterable[Prompt], suffix: str
    ) -> tuple[Float[Tensor, "prompt layer d_model"], Float[Tensor, "prompt layer d_model"]]:
        """`streams` without and with the suffix; what both arms begin with is read once.

        They are kept apart from `streams`, which they equal to rounding only: what a method is fitted on must not
        depend on which method came before it.
        """
        chosen = list(prompts)
        if self.remote and chosen:
            return self.streams(chosen), self.streams(chosen, suffix=suffix)
        missing = [p for p in chosen if (p.id, p.text, suffix) not in self._arms]
        if missing:
            both = collect_variants(self.model, missing, (None, suffix), progress=self.progress)
            for p, *arms in zip(missing, *both, strict=True):
                self._arms[(p.id, p.text, suffix)] = torch.stack(arms)
        if not chosen:
            raise PromptError("collect activations", "0 prompts", "give at least one")
        without, with_it = torch.stack([self._arms[(p.id, p.text, suffix)] for p in chosen]).unbind(1)
        return without, with_it

    def candidates(self) -> Candidates:
        """Difference in means of the drawn training text, every layer, at the last prompt token."""
        if "candidates" not in self._made:
            groups = {role: self.train("text", role) for role in ("harmful", "benign")}
            means = {role: self.streams(group).double().mean(0) for role, group in groups.items()}
            scale = means["harmful"].norm(dim=-1).clamp_min(1e-30)
            if float(((means["harmful"] - means["benign"]).norm(dim=-1) / scale).max()) <= SAME:
                raise DirectionError(
                    f"fit a defence on '{anatomy(self.model).name}'",
                    "harmful and benign text have the same mean activation at every layer",
                    "check the prompts and the model",
                )
            self._made["candidates"] = Candidates(
                means["harmful"].float().unsqueeze(0),
                means["benign"].float().unsqueeze(0),
                (-1,),
                len(groups["harmful"]),
                len(groups["benign"]),
                self.provenance([*groups["harmful"], *groups["benign"]]),
            )
        found: Candidates = self._made["candidates"]
        return found

    def direction(self) -> Direction:
        """The refusal direction of the drawn text, its layer selected as a defence on validation text.

        Raises:
            DirectionError: no layer passes the selection's filters.
        """
        if "direction" not in self._made:
            self._made["direction"] = select_direction(
                self.model,
                self.candidates(),
                self.val(),
                self.tokens,
                removal=False,  # only the choice and its strength are used
                remote=self.remote,
                progress=self.progress,
            )
        found: Direction = self._made["direction"]
        return found

    def shift(
        self,
        modality: Modality,
        *,
        beside: Literal["text", "instructions"] = "text",
        n_texts: int = 16,
        n_media: int = 4,
        media: Sequence[Any] | None = None,
    ) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer d_model"]]:
        """What a modality brings just by being there: neutral media beside texts.

            delta = mean over texts t and neutral media m of ( h(m, t) - h(t) )        last prompt token

        Args:
            modality: other than text.
            beside: "text": training text, half harmful, half benign; "instructions": the distinct instructions of the
                modality's own safe prompts ("do what the picture says"), their media left out; training text where
                there are no such prompts.
            n_texts: most texts, an even number.
            n_media: neutral media, each beside every text; sizes are those of the modality's safe prompts.
            media: neutral media of your own instead.

        Returns:
            delta, and the mean of h(m, t) itself.

        Raises:
            PromptError: fewer than 2 texts or 1 medium, or a modality the model does not take.
        """
        texts, shown = self.neutral(modality, beside=beside, n_texts=n_texts, n_media=n_media, media=media)
        with_media = self.streams(shown).double()
        without = self.streams(texts).double().repeat_interleave(len(shown) // len(texts), 0)
        return (with_media - without).mean(0).float(), with_media.mean(0).float()

    def neutral(
        self,
        modality: Modality,
        *,
        beside: Literal["text", "instructions"] = "text",
        n_texts: int = 16,
        n_media: int = 4,
        media: Sequence[Any] | None = None,
    ) -> tuple[list[Prompt], PromptSet]:
        """The texts of `shift`, and each of them beside each neutral medium, text by text; see there."""
        if n_texts < 2 or n_texts % 2 or n_media < 1:
            raise PromptError(
                f"{modality} shift from {n_texts} texts and {n_media} media",
                "too few, or odd",
                "use an even number >= 2",
            )
        if not anatomy(self.model).takes(modality):
            takes = ", ".join(anatomy(self.model).modalities)
            raise PromptError(f"{modality} shift of '{anatomy(self.model).name}'", f"it takes {takes}", "leave it out")
        like = self.prompts.filter(modality=modality, role=("benign", "near_miss"))
        texts = [p for role in ("harmful", "benign") for p in list(self.train("text", role))[: n_texts // 2]]
        if beside == "instructions" and len(like):
            said = list(dict.fromkeys(p.text for p in like))[:n_texts]
            texts = [Prompt(text, id=f"instruction {text}", split="train") for text in said]
        if media is None:
            shown = neutral_prompts(texts, modality, n_media, like=like, seed=self.seed)
        else:
            shown = PromptSet(
                p.replace(id=f"{p.id}#own {modality}{k}", **{modality: medium})
                for p in texts
                for k, medium in enumerate(media)
            )
        return texts, shown

    def layers(self, asked: Sequence[int] | str) -> tuple[int, ...]:
        """Layer numbers of a switch: "selected" (one, on validation text), "all", or numbers.

        Raises:
            PromptError: an unknown word, no layers or a layer the model does not have.
        """
        n = anatomy(self.model).n_layers
        if asked == "selected":
            return (self.direction().layer,)
        if asked == "all":
            return tuple(range(n))
        if isinstance(asked, str):
            raise PromptError(
                f"fit a defence at layers {asked!r}", "no such choice", "use 'selected', 'all' or numbers"
            )
        chosen = tuple(sorted(set(asked)))
        if not chosen or any(not 0 <= layer < n for layer in chosen):
            raise PromptError(
                f"fit a defence at layers {list(asked)}", f"the model has layers 0 to {n - 1}", "choose some of these"
            )
        return chosen

    def provenance(self, used: Iterable[Prompt]) -> Mapping[str, Any]:
        """Provenance of a defence fitted on these prompts, with the seed that drew them."""
        return {**provenance(self.model, PromptSet(used)), "seed": self.seed, "share": self.share}
