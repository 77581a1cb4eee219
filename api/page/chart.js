// Drawings of days as SVG: a sparkline of one row, and the chart of one group with the days before.

import { svg } from "./dom.js";
import { formatDay } from "./format.js";

const SPARK = { width: 104, height: 28, pad: 3 };
const MARGIN = { top: 10, right: 14, bottom: 24, left: 46 };
const LABEL_PX = 64;

/** Return the step between the lines of an axis up to `max`: 1, 2 or 5 times a power of ten. */
export function niceStep(max, lines, stepMin) {
  const rough = Math.max(max / lines, stepMin);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

/** Return the path of a line through the values, from left to right. */
function line(values, x, y) {
  return values.map((value, index) => `${index ? "L" : "M"}${round(x(index))} ${round(y(value))}`).join("");
}

const round = (n) => Math.round(n * 10) / 10;

/** Return a small drawing of the values, oldest first. It repeats the row, so it has no text. */
export function sparkline(values) {
  const { width, height, pad } = SPARK;
  const max = Math.max(...values, 1);
  const x = (index) => pad + (index * (width - 2 * pad)) / Math.max(1, values.length - 1);
  const y = (value) => height - pad - (value * (height - 2 * pad)) / max;
  const path = line(values, x, y);
  const last = values.length - 1;
  const base = height - pad;
  return svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    svg("path", { class: "area", d: `${path}L${round(x(last))} ${base}L${round(x(0))} ${base}Z` }),
    svg("path", { class: "now", d: path }),
    svg("circle", { class: "today", cx: round(x(last)), cy: round(y(values[last])), r: 2 }),
  );
}

/**
 * Return the chart of `points` ({date, value}, oldest first) over `previous`, the days before.
 *
 * `width` and `height` in px; `format`: text of a value; `stepMin`: least step of the axis; `label`: the text for a screen reader;
 * `onPoint(index)`: called for the day under the pointer, or with null.
 */
export function chart({ points, previous, width, height, format, stepMin, label, onPoint }) {
  const values = points.map((point) => point.value);
  const before = previous.map((point) => point.value);
  const step = niceStep(Math.max(...values, ...before, 0), 4, stepMin);
  const top = step * Math.max(1, Math.ceil(Math.max(...values, ...before, 0) / step));
  const right = width - MARGIN.right;
  const bottom = height - MARGIN.bottom;
  const x = (index) => MARGIN.left + (index * (right - MARGIN.left)) / Math.max(1, points.length - 1);
  const y = (value) => bottom - (value * (bottom - MARGIN.top)) / top;

  const axis = [];
  for (let value = 0; value <= top + step / 2; value += step) {
    axis.push(
      svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: round(y(value)), y2: round(y(value)) }),
      svg("text", { class: "tick", x: MARGIN.left - 8, y: round(y(value)) + 4, "text-anchor": "end" }, format(value)),
    );
  }
  const every = Math.max(1, Math.ceil((points.length * LABEL_PX) / (right - MARGIN.left)));
  points.forEach((point, index) => {
    if ((points.length - 1 - index) % every !== 0) return;
    const anchor = index === points.length - 1 ? "end" : index === 0 ? "start" : "middle";
    axis.push(svg("text", { class: "tick", x: round(x(index)), y: height - 6, "text-anchor": anchor }, formatDay(point.date)));
  });

  const path = line(values, x, y);
  const last = values.length - 1;
  const guide = svg("line", { class: "guide", y1: MARGIN.top, y2: bottom, visibility: "hidden" });
  const dot = svg("circle", { class: "dot", r: 4, visibility: "hidden" });
  const drawing = svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
    ...axis,
    svg("path", { class: "area", d: `${path}L${round(x(last))} ${bottom}L${round(x(0))} ${bottom}Z` }),
    ...(before.length ? [svg("path", { class: "before", d: line(before, x, y) })] : []),
    guide,
    svg("path", { class: "now", d: path }),
    svg("circle", { class: "today", cx: round(x(last)), cy: round(y(values[last])), r: 4 }),
    dot,
  );
  const show = (index) => {
    const visibility = index === null ? "hidden" : "visible";
    guide.setAttribute("visibility", visibility);
    dot.setAttribute("visibility", visibility);
    if (index !== null) {
      guide.setAttribute("x1", round(x(index)));
      guide.setAttribute("x2", round(x(index)));
      dot.setAttribute("cx", round(x(index)));
      dot.setAttribute("cy", round(y(values[index])));
    }
    onPoint(index);
  };
  drawing.addEventListener("pointermove", (event) => {
    const at = event.clientX - drawing.getBoundingClientRect().left - MARGIN.left;
    const index = Math.round((at * Math.max(1, last)) / (right - MARGIN.left));
    show(Math.min(last, Math.max(0, index)));
  });
  drawing.addEventListener("pointerleave", () => show(null));
  return drawing;
}
