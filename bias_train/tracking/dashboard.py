"""Our panels as a W&B workspace or as a W&B report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bias_train.errors import RunError
from bias_train.files import write_text
from bias_train.tracking.panels import SHARE_KEY, STEP, Panel, Section

SHARE_TITLE = "generated share of the training pictures"


def workspace(project: str, entity: str, sections: Sequence[Section], *, name: str) -> Any:
    """Build a workspace, without talking to W&B.

    Returns:
        ``wandb_workspaces.workspaces.Workspace``.

    Raises:
        RunError: where the package is missing.
    """
    ws, wr = _library()
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50),
        sections=[
            ws.Section(name=section.name, panels=[_panel(wr, panel) for panel in section.panels], is_open=True)
            for section in sections
        ],
    )


def report(project: str, entity: str, sections: Sequence[Section], *, title: str, look_up: bool) -> Any:
    """Build a report with the same panels and room for what to say about them.

    Args:
        project: whose runs it shows.
        entity: owner of the project.
        sections: what it shows.
        title: heading.
        look_up: name the project in each set of runs, for which W&B is asked; otherwise it is left to be the report's.

    Returns:
        ``wandb_workspaces.reports.v2.Report``.

    Raises:
        RunError: where the package is missing.
    """
    _, wr = _library()
    blocks: list[Any] = [wr.TableOfContents()]
    for section in sections:
        panels = [_panel(wr, panel) for panel in section.panels]
        runs = wr.Runset(entity=entity, project=project, name="Runs") if look_up else wr.Runset(name="Runs")
        blocks += [wr.H1(section.name), wr.P("What is seen here:"), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")


def write_spec(thing: Any, file: Path) -> None:
    """Write what would be sent to W&B as JSON."""
    document = json.loads(thing._to_model().model_dump_json(by_alias=True, exclude_none=True))
    write_text(file, json.dumps(document, indent=1) + "\n")


def publish(thing: Any) -> str:
    """Save a workspace or report in W&B and return its address.

    Raises:
        RunError: where W&B cannot be reached or refuses.
    """
    try:
        thing.save()
        return str(thing.url)
    except Exception as error:  # the library passes on whatever its transport raises
        said = " ".join(str(error).split()) or type(error).__name__
        raise RunError(
            f"W&B did not take it ({said}); see `wandb login`, or write it to a file with --dry-run"
        ) from error


def default_entity() -> str:
    """The entity of the user who is logged in.

    Raises:
        RunError: where nobody is, or W&B cannot be reached.
    """
    import wandb

    try:
        entity = wandb.Api(timeout=20).default_entity
    except Exception as error:
        raise RunError(f"W&B does not say who you are ({' '.join(str(error).split())}); give --entity") from error
    if not entity:
        raise RunError("W&B knows no default entity of yours; give --entity")
    return str(entity)


def _library() -> tuple[Any, Any]:
    try:
        return import_module("wandb_workspaces.workspaces"), import_module("wandb_workspaces.reports.v2")
    except ModuleNotFoundError as error:
        raise RunError("the package wandb-workspaces is not installed: pip install 'bias-train[tracking]'") from error


def _panel(wr: Any, panel: Panel) -> Any:
    if panel.kind == "table":
        return wr.WeavePanelSummaryTable(table_name=panel.y[0], layout=wr.Layout(w=24, h=12))
    if panel.kind == "line":
        return wr.LinePlot(title=panel.title, x=STEP, y=list(panel.y))
    x = wr.Config(SHARE_KEY) if panel.x is None else wr.SummaryMetric(panel.x)
    return wr.ScatterPlot(title=panel.title, x=x, y=wr.SummaryMetric(panel.y[0]))
