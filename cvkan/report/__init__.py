"""Reports: `summarise` turns a sweep's tables into a SweepSummary; the renderers turn summaries into text."""

from cvkan.report.summary import SweepSummary, summarise
from cvkan.report.terminal import render_terminal
from cvkan.report.text import render_csv, render_json, render_markdown

__all__ = ["SweepSummary", "render_csv", "render_json", "render_markdown", "render_terminal", "summarise"]
