"""Write the demo's transcript to docs/demo.md, and the first screen of its page to docs/images/report.png."""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 860
PAGE = """\
# The demo

`make demo` rates the [sample dataset](../examples/sample/README.md) with mechanical rules, drops what they find wanting, and
trains [SmolLM2-135M-Instruct](../examples/small_model/requirements.txt) on what is left, on as many examples at random and on
all, with as many updates each. `make study` goes on with the longest, and [races](race.md) the four arms. This is what
`make demo` said when it was last run for this page (`make demo-docs`); lines of the jobs themselves are left out.

```text
{transcript}
```

![The first screen of its page](images/report.png)

The same machine gives the same figures at every run; another may round otherwise, and differ in the last digits.

On two cores with nothing else to do the demo takes 7 minutes and 14 seconds, the download of the model included (4 minutes and
41 seconds with two arms); what was dropped, and why, stands there after a quarter of a minute. On two cores that much other
work shared two arms took 20 minutes. The race of the arms stands in `make study` for that reason.
"""


def write(docs: Path, lines: Sequence[str], page: str) -> None:
    """Write both; without a browser the picture stays as it is."""
    kept = "\n".join(line.replace(str(ROOT) + "/", "") for line in lines)
    (docs / "demo.md").write_text(PAGE.format(transcript=kept))
    picture(page, docs / "images/report.png")


def picture(page: str, target: Path) -> None:
    """The first screen of a page, in so few colours that it takes little room."""
    from PIL import Image

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("no Chromium is installed: the picture stays as it is")
        return
    with tempfile.TemporaryDirectory() as name:
        shot = Path(name) / "shot.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
        waits = ["--virtual-time-budget=5000", f"--screenshot={shot}"]
        subprocess.run([browser, *options, *waits, f"file://{page}"], check=True, capture_output=True, timeout=120)
        small = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB").quantize(128)
        target.parent.mkdir(parents=True, exist_ok=True)
        small.save(target, optimize=True)
