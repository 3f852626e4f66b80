"""What a run is, in a few lines, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dcs_nas.report.run_files import RunFiles
from dcs_nas.settings import plain_yaml
from dcs_nas.space import ChainGenotype, Genotype

_FINISHED = {True: "genotype.yaml", False: "finished.yaml"}


@dataclass(frozen=True)
class Summary:
    """Facts as (name, value) pairs, those of how it was made apart, and the whole configuration as YAML."""

    facts: list[tuple[str, str]]
    made: list[tuple[str, str]]
    config: str


def summarize(run: RunFiles) -> Summary:
    """What a reader wants to know first; facts that the folder does not hold are left out."""
    section = _part(run.config, "search" if run.searched else "retrain")
    facts = {
        "what": "search" if run.searched else "training of a fixed network",
        "state": _state(run, section),
        "data": _data(run),
        "network": _network(run, section),
        "found by": _origin(run),
        "image size": _size(run.config),
        "seed": run.config.get("seed", 0),
    }
    made = {
        "command": _words(run.environment.get("command")),
        "software": _pairs(run.environment.get("versions")),
        "machine": _pairs(run.environment.get("machine")),
        "source": run.environment.get("git"),
        "folder": run.path,
    }
    return Summary(_present(facts), _present(made), plain_yaml(run.config))


def _present(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _state(run: RunFiles, section: Mapping[str, Any]) -> str:
    epochs, wanted = len(run.metrics), section.get("epochs")
    finished = (run.path / _FINISHED[run.searched]).is_file()
    done = f"{epochs} of {wanted} epochs" if wanted and epochs else f"{epochs} epochs" if epochs else ""
    return ", ".join(filter(None, ["finished" if finished else "not finished", done]))


def _data(run: RunFiles) -> str:
    settings = _part(run.config, "data")
    return str(run.data.get("version") or settings.get("name") or "")


def _network(run: RunFiles, section: Mapping[str, Any]) -> str:
    if section.get("backbone"):
        return str(section["backbone"])
    genotype = run.genotype
    if isinstance(genotype, ChainGenotype):
        return f"chain of space {genotype.space.name}, {sum(len(s.blocks) for s in genotype.stages)} blocks"
    if not isinstance(genotype, Genotype):
        return ""
    network = genotype.network
    cells, channels = section.get("cells") or network.cells, section.get("channels") or network.channels
    return f"{cells} cells of space {genotype.space.name}, width {channels}, stem {network.stem}"


def _origin(run: RunFiles) -> str:
    if run.genotype is None:
        return ""
    origin = run.genotype.origin
    words = [origin.method, f"on {origin.data}" if origin.data else ""]
    words += [f"seed {origin.seed}" if origin.seed is not None else ""]
    words += [f"epoch {origin.epoch + 1}" if origin.epoch is not None else ""]
    return ", ".join(filter(None, words))


def _size(config: Mapping[str, Any]) -> str:
    data = _part(config, "data")
    return f"{data['height']} × {data['width']} pixels" if {"height", "width"} <= set(data) else ""


def _words(found: Any) -> str:
    return " ".join(map(str, found)) if isinstance(found, list) else ""


def _pairs(found: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in found.items()) if isinstance(found, Mapping) else ""


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}
