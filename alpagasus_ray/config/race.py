"""The knobs of `jobs/race.py`: which arms are raced, by which proxy, for how long, and what they are measured on."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from alpagasus_ray.config.base import OPERATIONAL, Name, Section, Share, differ
from alpagasus_ray.config.compare import PairJudge
from alpagasus_ray.config.finetune import Finetune
from alpagasus_ray.config.stages import TestSet


class Race(Section):
    """`jobs/race.py`: train a small model on every arm and seed, and tell which arm leaves it with the lowest held-out loss."""

    model: str | None = None
    """The small model (proxy) that is trained: a Hugging Face id or a directory; that of `finetune` unless given. All else of
    the training is as `finetune` says."""
    arms: tuple[Name, ...] = ()
    """Which arms to race; all of `pick.arms` unless given."""
    seeds: PositiveInt = 5
    """How often each arm is trained. A random arm is drawn anew for every seed; others are seen in another order."""
    tokens: PositiveInt | None = None
    """Tokens that every arm is trained on, prompts counted; those of the smallest arm unless given."""
    steps: PositiveInt | None = None
    """Updates of every training; by default as many as give `finetune.global_batch` examples an update on average."""
    epochs: PositiveFloat | None = None
    """In place of `tokens` and `steps`: how often every arm is seen, as the paper did; larger arms then train for longer."""
    learning_rate: PositiveFloat | None = None
    """The learning rate after the warm-up, which stays as it is to the end; that of `finetune` unless given."""
    heldout: PositiveInt | str | None = None
    """What the arms are measured on: a file of examples, or a number of rows that are drawn from the examples and taken out of
    every arm. Rows that nearly repeat one that is measured on are taken out of every arm too."""
    test_sets: tuple[TestSet, ...] = ()
    """Test sets with references, measured on as well; where there is no `heldout`, the first of them decides."""
    near: Share = 0.8
    """How alike a row of an arm has to be to one that is measured on to be taken out."""
    points: Annotated[int, Field(ge=1, le=100)] = 8
    """How often the loss is measured in each training, at equal distances."""
    drop: bool = True
    """From the third seed on, stop training arms that are surely worse than the best; never random or longest."""
    judge: PairJudge | None = None
    """Who compares the answers of the proxies with those of the random arm's, as `compare.judge`; nobody unless given. It is
    asked about the first seed alone."""
    judged: PositiveInt = 100
    """With `judge`: how many prompts are answered, the first of what decides."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 256
    """With `judge`: longest answer of a proxy, in tokens."""
    at_once: Annotated[PositiveInt | None, OPERATIONAL] = None
    """How many trainings run at the same time; one on each GPU unless given, or one alone without GPUs."""
    max_cost_usd: Annotated[float | None, Field(ge=0), OPERATIONAL] = None
    """Stop before a training that could pass so many dollars, counted by `finetune.price_per_gpu_hour`; what is left is for
    the judge."""

    @model_validator(mode="after")
    def _fits(self) -> "Race":
        if self.epochs is not None and (self.tokens is not None or self.steps is not None):
            raise ValueError(
                "`epochs` trains larger arms for longer, `tokens` and `steps` train all alike: give one or the other"
            )
        if self.judge is not None and self.judge.is_model and self.judge.model is None:
            raise ValueError("`judge.model` is not given: name the model that compares, or set `judge.kind: rules`")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("an arm is named twice in `arms`")
        differ("test_sets", [one.name for one in self.test_sets])
        if any(one.name == "heldout" for one in self.test_sets):
            raise ValueError("`heldout` is the name of what `race.heldout` holds; give the test set another")
        return self

    def training(self, finetune: Finetune) -> Finetune:
        """How a proxy is trained. The learning rate stays as it is after the warm-up, so that each point of a curve is the end
        of a training of that length; on one process, as a proxy fits one device."""
        return finetune.model_copy(
            update={
                "model": self.model or finetune.model,
                "learning_rate": self.learning_rate or finetune.learning_rate,
                "schedule": "constant",
                "epochs": None,
                "steps": None,
                "heldout": None,
                "heldout_every": None,
                "keep": "last",
                "workers": 1,
                "offload": "none",
                "tensorboard": False,
                "wandb": None,
                "arms": (),
                "trainer": None,
                "checkpoints": {},
            }
        )
