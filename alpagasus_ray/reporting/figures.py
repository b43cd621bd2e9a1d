"""Figures as SVG text; matplotlib is loaded when one is drawn."""

import io
from collections.abc import Mapping

BLUE, ORANGE = "#0072b2", "#e69f00"
"""Told apart with every common kind of colour blindness (Okabe and Ito's palette)."""


def score_histogram(counts: Mapping[str, int], kept: Mapping[str, int], title: str) -> str:
    """Bars of rows per score, the kept ones in another colour; `counts` and `kept` go from score to rows."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # ids in the file come from a salt; without one of our own the same figure would differ from call to call
    with matplotlib.rc_context({"svg.hashsalt": "alpagasus", "svg.fonttype": "none"}):
        labels = sorted(counts, key=float)
        figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
        axes.bar(labels, [counts[label] for label in labels], color=BLUE, label="dropped")
        axes.bar(labels, [kept.get(label, 0) for label in labels], color=ORANGE, label="kept")
        for place, label in enumerate(labels):
            axes.annotate(f"{counts[label]:,}", (place, counts[label]), ha="center", va="bottom", fontsize=8)
        axes.set(xlabel="score", ylabel="examples", title=title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return text.getvalue()
