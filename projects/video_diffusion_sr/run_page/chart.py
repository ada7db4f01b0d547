"""Draws two curves as an inline SVG. Labels are HTML beside it, since narrow screens would shrink text in the SVG."""

from html import escape

from projects.video_diffusion_sr.run_page.samples import Curve

WIDTH, HEIGHT = 600, 120  # in units of the drawing, which the page scales


def chart(curve: Curve) -> str:
    """The curves of one clip over time in seconds, with an axis that begins at 0."""
    top = max(*curve.before, *curve.after, 0.5) * 1.05
    first, last = curve.times[0], curve.times[-1]
    span = max(last - first, 1e-9)

    def points(values: tuple[float, ...]) -> str:
        return " ".join(
            f"{(time - first) / span * WIDTH:.1f},{HEIGHT * (1 - value / top):.1f}"
            for time, value in zip(curve.times, values, strict=True)
        )

    each = "" if curve.frames == 1 else f"; each point is the largest of {curve.frames} frames"
    label = escape(f"change from frame to frame, {first:.2f} to {last:.2f} s")
    return f"""<div class="chart"><p><b>Flicker</b>: change from one frame to the next, levels of 255{each}
<span class="key in">input</span> <span class="key out">restored</span></p>
<div class="plot"><span class="top">{top:.1f}</span><span class="zero">0</span>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}">
<path class="grid" d="M0 .5H{WIDTH}M0 {HEIGHT / 2}H{WIDTH}M0 {HEIGHT - 0.5}H{WIDTH}"/>
<polyline class="in" points="{points(curve.before)}"/><polyline class="out" points="{points(curve.after)}"/></svg></div>
<p class="axis"><span>{first:.2f} s</span><span>{last:.2f} s</span></p></div>"""
