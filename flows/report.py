"""Report: the page, and Prefect artifacts that point to it."""

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from storage.files import read_table
from tasks.report import write_page
from tasks.state import State
from tasks.summary import markdown_summary


@flow(name="report", validate_parameters=False, persist_result=False)
def report_flow(state: State) -> None:
    """Bring the page of a run up to date and tell Prefect where it is."""
    if state.report is None:
        raise RuntimeError("expected metric rows; the evaluate step comes first")
    state.done["report"] = write_page(state, state.report)
    metrics = read_table(state.report / "metrics.parquet")
    key = f"maskmill-{state.report.name}"
    create_markdown_artifact(key=f"{key}-summary", markdown=markdown_summary(metrics), description="Metrics of the run")
    link = (state.report / "report.html").as_uri()
    create_link_artifact(key=f"{key}-page", link=link, link_text="report.html", description="The page of the run")
