"""Draws requests a second over time, as an SVG, in a file of its own or in a page of the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 710, 24, 218
# The variables are those of the documentation's theme, light and dark.
STYLE = """
svg.requests { display: block; width: 100%; height: auto; margin: 1.5rem 0; }
.requests text { font: 13px var(--font-stack, sans-serif); }
.requests text { fill: var(--color-foreground-primary, #777); }
.requests .axis { stroke: var(--color-foreground-border, #999); fill: none; }
.requests .outage { fill: #d97706; fill-opacity: 0.2; }
.requests .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.requests .now { stroke: #2563eb; }
.requests .before { stroke: #d97706; stroke-dasharray: 5 3; }
""".strip()

Curve = Sequence[tuple[int, int]]


def draw(curves: Mapping[str, Curve], *, title: str, outage: tuple[int, int]) -> str:
    """Draw curves, whose names are "now" and "before"; times in seconds."""
    seconds = [second for second, _ in curves["now"]]
    first, last = seconds[0], seconds[-1] + 1
    step = 100
    top = -(-max(count for curve in curves.values() for _, count in curve) // step) * step

    def x(second: float) -> float:
        return LEFT + (second - first) * (RIGHT - LEFT) / (last - first)

    def y(count: float) -> float:
        return BOTTOM - count * (BOTTOM - TOP) / top

    def line(x1: float, y1: float, x2: float, y2: float) -> str:
        return f'<line class="axis" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'

    def text(at_x: float, at_y: float, content: str, anchor: str = "middle") -> str:
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}">{content}</text>'

    begin, end = outage
    parts = [
        (
            f'<svg class="requests" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
            ' xmlns="http://www.w3.org/2000/svg">'
        ),
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        (
            f'<rect class="outage" x="{x(begin):.1f}" y="{TOP}" width="{x(end) - x(begin):.1f}"'
            f' height="{BOTTOM - TOP}"/>'
        ),
        text((x(begin) + x(end)) / 2, TOP - 8, "outage"),
        text(LEFT, TOP - 8, "requests a second", "start"),
        line(LEFT, BOTTOM, RIGHT, BOTTOM),
        text((LEFT + RIGHT) / 2, HEIGHT - 8, "seconds since the outage began"),
    ]
    for second in range(-(-first // 10) * 10, last + 1, 10):
        parts += [
            line(x(second), BOTTOM, x(second), BOTTOM + 4),
            text(x(second), BOTTOM + 18, str(second)),
        ]
    for count in range(0, top + 1, step):
        parts += [
            line(LEFT - 4, y(count), LEFT, y(count)),
            text(LEFT - 8, y(count) + 4, str(count), "end"),
        ]
    for number, (name, curve) in enumerate(curves.items()):
        points = " ".join(
            f"{x(at):.1f},{y(count):.1f}" for second, count in curve for at in (second, second + 1)
        )
        parts.append(f'<polyline class="curve {name}" points="{points}"/>')
        legend = RIGHT - 70
        at_y = TOP + 12 + 18 * number
        ends = f"{legend - 34},{at_y - 4} {legend - 8},{at_y - 4}"
        parts.append(f'<polyline class="curve {name}" points="{ends}"/>')
        parts.append(text(legend, at_y, name, "start"))
    return "\n".join([*parts, "</svg>", ""])
