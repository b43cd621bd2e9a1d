"""Every knob of a run: frozen pydantic models, one section for each stage, one docstring for each field.

A recipe is a YAML file with these sections. What is not given has the default shown there; what is not known is refused.
Fields marked OPERATIONAL say how the work is carried out, not what comes out of it: they may change between two calls of
a stage. All others are the identity of a stage's results (`identity`), and a change of one is never mixed with old results.

`base.py` has what all sections share, `engines.py` what the stages share that ask a model, the other files the stages' own
knobs. Nothing of files, of Ray or of how a recipe is read (`recipe.py` of the package).
"""

from alpagasus_ray.config.base import DEBUG, OPERATIONAL, Name, Section, deciding, digest, identity
from alpagasus_ray.config.bench import Bench, BenchModel, BenchTask
from alpagasus_ray.config.cascade import Cascade
from alpagasus_ray.config.compare import Compare, Import, PairJudge, Report, Rule
from alpagasus_ray.config.distill import Distill
from alpagasus_ray.config.engines import (
    BASE_URL,
    OPENAI,
    PLAIN,
    Address,
    Asking,
    Batch,
    Endpoint,
    EngineConfig,
    KeyName,
    Kind,
    Price,
    Vllm,
)
from alpagasus_ray.config.finetune import Checkpoints, Finetune, Lora
from alpagasus_ray.config.pick import Arm, Clean, Pick
from alpagasus_ray.config.recipe import AFTER_PICK, Recipe
from alpagasus_ray.config.stages import Answerer, Generate, Ingest, Judge, Score, TestSet
from alpagasus_ray.config.trust import Card, Combine, People

__all__ = [
    "AFTER_PICK",
    "BASE_URL",
    "DEBUG",
    "OPENAI",
    "OPERATIONAL",
    "PLAIN",
    "Address",
    "Answerer",
    "Arm",
    "Asking",
    "Batch",
    "Bench",
    "BenchModel",
    "BenchTask",
    "Card",
    "Cascade",
    "Checkpoints",
    "Clean",
    "Combine",
    "Compare",
    "Distill",
    "Endpoint",
    "EngineConfig",
    "Finetune",
    "Generate",
    "Import",
    "Ingest",
    "Judge",
    "KeyName",
    "Kind",
    "Lora",
    "Name",
    "PairJudge",
    "People",
    "Pick",
    "Price",
    "Recipe",
    "Report",
    "Rule",
    "Score",
    "Section",
    "TestSet",
    "Vllm",
    "deciding",
    "digest",
    "identity",
]
