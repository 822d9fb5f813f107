"""The recipe ``shots``: a head that learns labels from pictures and words, by episodes on cached features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ovseg.errors import ConfigError
from ovseg.examples.shot import Kind
from ovseg.heads.registry import HeadConfig, build_head
from ovseg.heads.shots import ShotHead
from ovseg.models.model import Model
from ovseg.pipeline.queries import encode_phrases
from ovseg.provenance import names_hash
from ovseg.training.augment import Augmentation
from ovseg.training.config import Above0, Positive, Share, TrainingConfig
from ovseg.training.data import MaskData, Source, open_source, place_of, source_content
from ovseg.training.episodes import Episode, Episodes, Rules
from ovseg.training.features import FeatureCache
from ovseg.training.lesson import Lesson
from ovseg.training.losses import softmax_loss
from ovseg.training.recipe import Recipe, Task, fill_in, groups_by_rank
from ovseg.training.recipes.masks import HeadSchedule, phrases_and_owners
from ovseg.training.views import Views
from ovseg.vocabulary.templates import Templates
from ovseg.weights import freeze

CELLS = 10_000  # of all images, by which the head's space begins


class EpisodeSchedule(HeadSchedule):
    """The same with the defaults of episodes."""

    batch: Positive = 2
    evidence_rate: float = 5.0


class ShotsConfig(TrainingConfig):
    """A head that reads shots, trained by random episodes.

    Attributes:
        head: kind and settings of the head.
        data: images with masks; an episode takes all its images from one of them.
        views: cached versions of every image; the first is the image itself.
        augmentation: how the others differ.
        ways: classes of an episode, at most.
        shots: pictures of a class, at most.
        prompts: how often a shot is drawn by a mask, a box and a point, against one another.
        wrong_words: chance that a class of an episode has the words of another, so that pictures are believed too.
        balance: classes weigh (their share of the pixels)^−balance.
    """

    recipe: Literal["shots"] = "shots"
    head: HeadConfig = HeadConfig(kind="multimodal")
    data: tuple[MaskData, ...] = Field(min_length=1)
    views: Positive = 1
    augmentation: Augmentation = Augmentation(mosaic=0.0, mix=0.0)
    ways: Annotated[int, Field(gt=1)] = 6
    shots: Positive = 3
    prompts: dict[Kind, Above0] = Field(default={"mask": 2.0, "box": 1.0, "point": 1.0}, min_length=1)
    wrong_words: Share = 0.2
    balance: Share = 0.5
    schedule: EpisodeSchedule = EpisodeSchedule()


class ShotsTask(Task):
    """The head and its loss on episodes.

    Args:
        head: what is trained.
        config: the run.
        episodes: of each source.
        settings: the head's section of the model file.
    """

    changes: ClassVar[dict[str, Any]] = {"examples": {"method": "trained", "beside": "auto"}}

    def __init__(
        self, head: ShotHead, config: ShotsConfig, episodes: Sequence[Episodes], *, settings: HeadConfig
    ) -> None:
        super().__init__()
        self.head, self.config, self.settings, self.episodes = head, config, settings, episodes
        self.rules = Rules(config.ways, config.shots, dict(config.prompts), config.wrong_words)
        self.manifest = [
            {
                "data": one.views.source.settings,
                "images": len(one.views),
                "classes": len(one.images_of),
                "images_hash": names_hash(one.views.source.names),
            }
            for one in episodes
        ]

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        """The mean loss of ``count`` episodes drawn by ``generator``."""
        total = torch.zeros((), device=next(self.head.parameters()).device)
        drawn = []
        for _ in range(count):
            source = self.episodes[int(torch.randint(len(self.episodes), (1,), generator=generator))]
            episode, name = source.draw(self.head, self.rules, generator)
            drawn.append(name)
            self.drawn = "an episode of " + ", ".join(drawn)
            total = total + self.loss(episode) / count
        return total

    def loss(self, episode: Episode) -> Tensor:
        """Softmax over the classes of an episode, at the pixels that show them."""
        trust, evidence = self.head.learn(episode.lesson)(episode.view)
        logits = trust[:, None, None] * episode.view.text + evidence
        fine = functional.interpolate(logits[None], size=episode.truth.shape, mode="bilinear")
        truth = episode.truth.to(fine.device)
        counts = torch.bincount(truth[truth >= 0], minlength=len(logits)).float()
        shares = counts / counts.sum().clamp_min(1)
        weights = torch.where(counts > 0, shares.clamp_min(1e-6) ** -self.config.balance, 0)
        return softmax_loss(fine, truth[None], weights=weights)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See ``groups_by_rank``."""
        return groups_by_rank(self.head.parameters(), self.config.schedule)


def shots_identity(config: ShotsConfig, model: Model, cache: FeatureCache) -> dict[str, str]:
    """The content of every source, and the weights of the head below."""
    sources = {
        f"data.{number}": source_content(open_source(data), cache) for number, data in enumerate(config.data)
    }
    return {**sources, "weights of the head below": model.weights.get("head", "")}


def build_shots(config: ShotsConfig, model: Model, cache: FeatureCache, accelerator: Accelerator) -> ShotsTask:
    """The task, with the features of all views in the cache.

    Raises:
        ConfigError: the head reads no shots, or a setting is wrong.
        DatasetError: a source is incomplete, or shows fewer than two classes.
    """
    if isinstance(model.head, nn.Module):
        freeze(model.head)
    settings = fill_in(config.head, model)
    torch.manual_seed(config.seed)
    head = build_head(settings, model.head, model.text)
    if not isinstance(head, ShotHead):
        raise ConfigError(f"recipe 'shots' cannot train a head of kind '{settings.kind}'; its recipe is another")
    if head.most is not None and config.ways > head.most:
        raise ConfigError(
            f"ways must be at most {head.most}, one fewer than head.settings.classes, got {config.ways}"
        )
    head.to(accelerator.device)
    episodes = [read_episodes(open_source(data), config, model, cache, accelerator) for data in config.data]
    images = sum(len(one.views) for one in episodes)
    with torch.no_grad():
        head.start_from(torch.cat([one.cells(head, each=max(1, CELLS // images)) for one in episodes]))
    return ShotsTask(head, config, episodes, settings=settings)


def read_episodes(
    source: Source, config: ShotsConfig, model: Model, cache: FeatureCache, accelerator: Accelerator
) -> Episodes:
    """A source with its words and its features."""
    phrases, owner = phrases_and_owners(source)
    vectors = encode_phrases(phrases, Templates.named(model.config.templates), model.text().encode)
    views = Views(source, model, cache, augmentation=config.augmentation, seed=config.seed)
    count = len(views) * config.views
    cache.fill("views", count, lambda number: views.fetch(*divmod(number, config.views)), accelerator=accelerator)
    episodes = Episodes(
        views,
        count=config.views,
        vectors=vectors,
        owner=torch.tensor(owner),
        smoothing=model.config.smoothing,
    )
    names = [source.phrases[number] for number in sorted(episodes.images_of)]
    Lesson(place_of(source.settings), len(views), names).check("softmax")
    return episodes


SHOTS = Recipe(ShotsConfig, shots_identity, build_shots, validates=False)
