// The days of one group, or of all: figures, the chart with the days before, and a table of both.

import { chart } from "./chart.js";
import { byId, element, isolated, setText } from "./dom.js";
import { formatCount, formatDay, formatLongDay, formatPercent, formatRate, formatShort, percent } from "./format.js";
import { PERIODS } from "./state.js";
import { TREND } from "./trends.js";

const COUNTS = ["impression", "click", "dismiss", "accept", "convert", "total"];
const MEASURES = {
  total: { label: "Interactions" },
  impression: { label: "Impressions" },
  click: { label: "Clicks" },
  convert: { label: "Conversions" },
  ctr: { label: "CTR", percent: true },
  cvr: { label: "CVR", percent: true },
};

/** Return the counts of several days together, with their rates. */
export function sumOf(points) {
  const sum = Object.fromEntries(COUNTS.map((key) => [key, points.reduce((n, point) => n + point[key], 0)]));
  return { ...sum, ctr: percent(sum.click, sum.impression), cvr: percent(sum.convert, sum.impression) };
}

/** Return what the figures compare: `now`, `before`, and the words for both. */
export function comparisonOf(days, { points, previous }) {
  if (days === 1) {
    return {
      now: sumOf(points.slice(-1)),
      before: sumOf(points.slice(-2, -1)),
      note: "Today counts up to now; yesterday is a whole day.",
      word: "yesterday",
    };
  }
  const length = points.length;
  return {
    now: sumOf(points),
    before: sumOf(previous),
    note: `Last ${length} days, and the ${length} days before. Today counts up to now.`,
    word: "before",
  };
}

export class Detail {
  /** `names(id)`: the name of a group; `onClose`: called when the user wants all groups again. */
  constructor(client, { names, onClose }) {
    this.client = client;
    this.names = names;
    this.section = byId("detail");
    this.close = byId("detail-close");
    this.measure = byId("measure");
    this.frame = byId("chart");
    this.shown = null;
    this.close.addEventListener("click", onClose);
    this.measure.addEventListener("change", () => this.#draw());
    let width = 0;
    new ResizeObserver(() => {
      if (this.frame.clientWidth !== width) this.#drawChart();
      width = this.frame.clientWidth;
    }).observe(this.frame);
  }

  /** Ask for the days of the chosen group, or of all, and show them. */
  async load({ groupBy, days, id }, signal) {
    const chartDays = PERIODS[days].chartDays;
    const parameters = { groupBy: id === null ? "action" : groupBy, days: chartDays, compare: "previous" };
    if (id !== null) parameters.id = id;
    const key = JSON.stringify(parameters);
    const known = this.shown?.key === key ? this.shown : null;
    let found;
    try {
      found = await this.client.get(TREND, parameters, { etag: known?.etag, signal });
    } catch (error) {
      if (error.status !== 404) throw error;
      found = { data: { points: [], previous: [] }, etag: null }; // there never was an interaction
    }
    this.section.hidden = false;
    const data = found.data ?? known.data;
    const changed = found.data !== null || known.days !== days;
    this.shown = { key, etag: found.etag, data, days, groupBy, id };
    setText(byId("detail-error"), "");
    this.title();
    if (changed) this.#draw();
  }

  /** Show the name again: an import may have changed it. */
  title() {
    if (!this.shown) return;
    const { id } = this.shown;
    const name = id === null ? "All interactions" : this.names(id);
    if (byId("detail-name").textContent !== name) byId("detail-name").replaceChildren(isolated(name));
    this.close.hidden = id === null;
  }

  /** Say why there are no newer days. */
  fail(message) {
    if (!this.section.hidden) setText(byId("detail-error"), message);
  }

  #draw() {
    if (!this.shown) return;
    this.#drawFigures();
    this.#drawChart();
    this.#drawNumbers();
  }

  #drawFigures() {
    const { data, days } = this.shown;
    const { now, before, note, word } = comparisonOf(days, data);
    const figures = Object.entries(MEASURES).map(([key, measure]) => {
      const format = measure.percent ? formatPercent : formatCount;
      return element(
        "div",
        { className: "figure" },
        {},
        element("dt", { textContent: measure.label }),
        element("dd", { className: "value", textContent: format(now[key]) }),
        element("dd", { className: "change" }, {}, ...changeOf(key, now, before, { format, word, days })),
      );
    });
    byId("figures").replaceChildren(...figures);
    setText(byId("detail-note"), data.points.length ? note : "There are no interactions of this group in the window.");
  }

  #drawChart() {
    if (!this.shown) return;
    const { points, previous } = this.shown.data;
    this.frame.hidden = !points.length;
    if (!points.length || this.frame.clientWidth === 0) return;
    const key = this.measure.value;
    const { label, percent: isRate } = MEASURES[key];
    const format = isRate ? formatPercent : formatCount;
    const last = points.length - 1;
    const read = (index) => this.#read(index ?? last, key, format);
    const drawing = chart({
      points: points.map((point) => ({ date: point.date, value: point[key] })),
      previous: previous.map((point) => ({ date: point.date, value: point[key] })),
      width: this.frame.clientWidth,
      height: this.frame.clientHeight,
      format: isRate ? (value) => `${formatRate(value)}%` : formatShort,
      stepMin: isRate ? 0.1 : 1,
      label: `${label} per day from ${formatLongDay(points[0].date)} to ${formatLongDay(points[last].date)}, with the days before. The numbers are in the table below.`,
      onPoint: read,
    });
    this.frame.replaceChildren(drawing);
    read(null);
  }

  /** Show the numbers of one day beside the legend. */
  #read(index, key, format) {
    const { points, previous } = this.shown.data;
    const today = index === points.length - 1 ? " (today)" : "";
    setText(byId("legend-now"), `${formatDay(points[index].date)}${today}: ${format(points[index][key])}`);
    const before = previous[index];
    byId("legend-before").parentElement.hidden = !before;
    if (before) setText(byId("legend-before"), `${formatDay(before.date)}: ${format(before[key])}`);
  }

  #drawNumbers() {
    const { points, previous } = this.shown.data;
    const key = this.measure.value;
    const { label, percent: isRate } = MEASURES[key];
    setText(byId("numbers-before"), `${label} before`);
    const rows = points.map((point, index) =>
      element(
        "tr",
        {},
        {},
        element("th", { textContent: formatLongDay(point.date) }, { scope: "row" }),
        ...Object.entries(MEASURES).map(([each, measure]) =>
          element("td", { textContent: (measure.percent ? formatPercent : formatCount)(point[each]) }),
        ),
        element("td", {
          textContent: previous[index] ? (isRate ? formatPercent : formatCount)(previous[index][key]) : "–",
        }),
      ),
    );
    byId("numbers").replaceChildren(...rows.reverse());
  }
}

/** Return the change as text, and what it was before as an element that a narrow page leaves out. */
function changeOf(key, now, before, { format, word, days }) {
  const then = `${word} ${format(before[key])}`;
  // A part of a day says little beside a whole one.
  if (days === 1 || before[key] === 0) return [then];
  const isRate = MEASURES[key].percent;
  const change = isRate ? now[key] - before[key] : percent(now[key] - before[key], before[key]);
  const rounded = Math.round(change * 10) / 10;
  const sign = rounded > 0 ? "+" : rounded < 0 ? "−" : "±";
  const delta = `${sign}${formatRate(Math.abs(rounded))}${isRate ? " points" : "\u202f%"}`;
  return [delta, element("span", { className: "then", textContent: `, ${then}` })];
}
