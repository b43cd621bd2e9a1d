"""The words that may stand before a score, by language: a closed list, for whatever else stands there is no label.

A label is made of `score`, `rating`, `overall`, `final`, `total` and the rubric's own dimension, perhaps behind `my` or
`the`, or of the same in one of the languages below. `Maximum score`, `IMDb rating`, and the score of another dimension are
none. Pure.
"""

import re
from functools import lru_cache

NOUNS = (
    "scores?|ratings?",
    "评分|得分|分数|打分|总分|評分|得分|分數|總分",
    "puntuaci[oó]n|calificaci[oó]n|puntaje|valoraci[oó]n|nota",
    "bewertung|punktzahl|wertung|note|gesamt(?:bewertung|punktzahl|wertung|note)|end(?:bewertung|wertung|note)",
    "[ée]valuation",
    "評価|スコア|点数|総合評価|pontua[cç][aã]o|voto|punteggio|valutazione|оценка|점수|평점",
)
"""English; Chinese; Spanish; German; French, as far as it has words of its own; Japanese, Portuguese, Italian, Russian,
Korean."""
WEIGHTY = "overall|final|total"
"""What says that no other score follows, and may stand alone."""
MODIFIERS = (
    WEIGHTY,
    "最终|最終|总体|總體|综合|綜合|整体",
    "general|global",
    "abschlie(?:ß|ss)ende|finale",
    "globale|finale|totale",
    "итоговая|общая|최종|finale",
)
"""What may stand beside such a noun."""
DIMENSIONS = {
    "accuracy": "准确性|准确度|準確性|precisi[oó]n|exactitud|genauigkeit|richtigkeit|pr[ée]cision|exactitude",
    "helpfulness": "有用性|有帮助程度|有幫助程度|utilidad|n[üu]tzlichkeit|utilit[ée]",
}
"""The dimensions of the shipped rubrics in those languages."""
OWN = "my|the|mi|la|el|meine|die|ma|il|minha|моя|我的"
OUT_OF = r"/|out\s+of|von|de|sur|su|из"
UNITS = "points?|pts?|stars?|⭐\ufe0f?|★|分|点|點|puntos?|punkten?|pontos?|punti"
IS = "is|es|ist|est|は|是|为|為|è"
LAST_WORD = re.compile(
    rf"\b(?:{WEIGHTY}|gesamt|end|finale|general|global|totale|abschlie)|最[终終]|总|總|综合|綜合|整体|総合|итог|общ|최종",
    re.IGNORECASE,
)
"""What makes a label one that no other score follows."""


@lru_cache(maxsize=64)
def label_of(dimension: str) -> str:
    """The pattern, without groups, of the labels of a rubric that asks about this dimension."""
    own = [r"\s+".join(re.escape(word) for word in dimension.split()), DIMENSIONS.get(dimension.lower(), "")]
    core = "|".join(filter(None, (*NOUNS, WEIGHTY, *own)))
    beside = f"{core}|{'|'.join(MODIFIERS)}"
    named = "|".join(filter(None, own)) or core
    of = rf"(?:\s+(?:for|of)\s+(?:the\s+)?(?:{named}))?"
    # repetitions are bounded, so that a reply of one word a thousand times takes no longer to read than another
    return rf"(?:(?:{OWN})\s?)?(?:(?:{'|'.join(MODIFIERS)})[\s_-]?){{0,2}}(?:{core})(?:[\s_-]?(?:{beside})){{0,2}}{of}"


def has_last_word(label: str) -> bool:
    """Whether a label says that no other score follows: `final score`, `Gesamtnote`."""
    return LAST_WORD.search(label) is not None
