"""A part's table as bars: ours, the usual way, others, and the machine's limit."""

from __future__ import annotations

from pathlib import Path

from bench.measure import Table

_COLOURS = {"steerflow": "#1f5fa8", "usual": "#9aa4ad", "other": "#c9a227", "limit": "#d9dee3"}


def draw(table: Table, path: Path) -> None:
    from matplotlib.figure import Figure

    groups = list(table.groups.items())
    heights = [len(rows) + 1.2 for _, rows in groups]
    figure = Figure(figsize=(9, 0.36 * sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for ax, (name, rows) in zip(axes, groups, strict=True):
        for y, row in enumerate(reversed(rows)):
            ax.barh(y, row.median, color=_COLOURS[row.role], height=0.7)
            ax.plot([row.low, row.high], [y, y], color="black", linewidth=1)
            ax.text(max(row.median, row.high), y, f"  {row.median:.4g}", va="center", fontsize=8)
        ax.set_yticks(range(len(rows)), [row.name for row in reversed(rows)], fontsize=8)
        ax.set_title(f"{name} ({rows[0].unit})" if rows[0].unit else name, fontsize=9, loc="left")
        ax.set_xlim(0, 1.12 * max(max(row.median, row.high) for row in rows))
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(axis="x", labelsize=8)
    figure.suptitle(table.title, fontsize=10, x=0.01, ha="left")
    figure.savefig(path, dpi=110)
