"""Where everything in a run came from, and what each stage took: figures from manifests alone. Pure.

`chain` is a list with an entry for each stage: `stage`, `rows`, `settings_hash`, `content_hash` and `inputs`, each
with `name`, `hash` and `state`: `same` as the stage of that name now, `changed` since, `gone` from the run, or a `file`.
`versions` lists `package`, `version` and the `stages` made with it.

`costs` has an entry for each stage: `stage`, `rows`, `seconds`, and where known `tokens_in`, `tokens_out`, `dollars`, `note`;
what nobody knows is null, never 0. `kinds` has the sums over the stages of a kind: `kind`, `stages`, and the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from alpagasus_ray.reporting.run_reader import KINDS, kind_of
from alpagasus_ray.store.run import Manifest

SAME, CHANGED, GONE, FILE = "same", "changed", "gone", "file"
MINOR = ("pairs", "prompts")
"""Stages that only lay out what others have made; they cost nothing to speak of."""


def chain(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    hashes = {name: manifest.content_hash() for name, manifest in manifests.items()}
    return [
        {
            "stage": name,
            "rows": manifest.rows,
            "settings_hash": manifest.settings_hash,
            "content_hash": hashes[name],
            "inputs": [
                {"name": key, "hash": made, "state": _state(key, made, hashes)} for key, made in manifest.inputs.items()
            ],
        }
        for name, manifest in manifests.items()
    ]


def _state(name: str, made: str, hashes: Mapping[str, str]) -> str:
    if name in hashes:
        return SAME if hashes[name] == made else CHANGED
    return GONE if kind_of(name) in KINDS and (name == "examples" or "/" in name) else FILE


def stale(links: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each stage that was made from something that is no longer so, in words."""
    words = {CHANGED: "has changed since", GONE: "is no longer in the run"}
    return [
        f"{link['stage']} was made from {entry['name']}, which {words[entry['state']]}"
        for link in links
        for entry in link["inputs"]
        if entry["state"] in words
    ]


def taken(manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """`costs` of each stage, `kinds` of each kind of stage, `total` of all."""
    told = costs(manifests)
    return {"costs": told, "kinds": by_kind(told), "total": total(told)}


def costs(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    return [_cost(name, manifest) for name, manifest in manifests.items() if kind_of(name) not in MINOR]


def _cost(name: str, manifest: Manifest) -> dict[str, Any]:
    used, details = manifest.usage, manifest.details
    trained = name.startswith("models/") and "steps" in details
    return {
        "stage": name,
        "rows": manifest.rows,
        "seconds": round(manifest.seconds, 3),
        "tokens_in": details["tokens"] if trained else used.get("tokens_in"),
        "tokens_out": used.get("tokens_out"),
        "dollars": details.get("dollars") if trained else used.get("cost_usd"),
        "note": f"{details['steps']:,} updates on {details['workers']} x {details['device']}" if trained else None,
    }


def versions(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], list[str]] = {}
    for name, manifest in manifests.items():
        for package, version in manifest.versions.items():
            found.setdefault((package, version), []).append(name)
    return [{"package": key[0], "version": key[1], "stages": names} for key, names in sorted(found.items())]


def by_kind(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        found.setdefault(kind_of(entry["stage"]), []).append(entry)
    rows = {kind: sum(entry["rows"] for entry in some) for kind, some in found.items()}
    return [{"kind": kind, "stages": len(some), "rows": rows[kind], **total(some)} for kind, some in found.items()]


def total(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over the stages; of tokens and dollars over those that know them."""
    known = {key: [entry[key] for entry in entries if entry[key] is not None] for key in ("tokens_in", "tokens_out", "dollars")}
    seconds = round(sum(entry["seconds"] for entry in entries), 3)
    return {"seconds": seconds, **{key: sum(values) if values else None for key, values in known.items()}}
