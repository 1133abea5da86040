"""The section of the provenance: commits, hardware, versions, hashes of the lists and commands behind the numbers."""

import pandas as pd

from report.page import Code, Details, Heading, Table, Text


def show_provenance(experiments):
    """The blocks of where the numbers come from."""
    systems = [system for experiment in experiments for system in experiment.systems]
    runs = [run for system in systems for run in system.runs]
    versions = [{"python": run.environment.get("python"), **run.environment.get("versions", {})} for run in runs]
    versions = _join(", ".join(f"{name} {version}" for name, version in each.items()) for each in versions)
    hashes = dict.fromkeys(pair for run in runs for pair in run.environment.get("sha256", {}).items())
    lists = pd.DataFrame(list(hashes), columns=["list", "SHA-256"])
    commands = [f"# {run.folder}\n{run.environment.get('command', 'unknown')}" for run in runs]
    return [
        Heading("Provenance"),
        Table(pd.DataFrame([_build_row(system) for system in systems])),
        Text(f"Versions: {versions}.", note=True),
        Details(f"Lists and their hashes ({len(lists)})", [Table(lists)]),
        Details(f"Commands ({len(commands)})", [Code("\n".join(commands))]),
    ]


def _build_row(system):
    return {
        "system": system.name,
        "protocol": system.protocol,
        "folder": str(system.folder),
        "runs": len(system.runs),
        "best epochs": " ".join(str(run.result["best_epoch"]) for run in system.runs),
        "commit": _join(_shorten(str(run.environment.get("git_commit"))) for run in system.runs),
        "hardware": _join(_describe_hardware(run.environment.get("hardware", {})) for run in system.runs),
    }


def _join(texts):
    """Every different text once."""
    return " and ".join(dict.fromkeys(texts))


def _shorten(commit):
    return commit[:12] + "-dirty" * commit.endswith("-dirty")


def _describe_hardware(hardware):
    if gpus := hardware.get("gpus"):
        return f"{len(gpus)} x {gpus[0]}"
    return f"{hardware.get('cores', '?')} cores {hardware.get('processor', '')}".strip()
