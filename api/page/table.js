// The rows of the list. They are updated in place, so that focus and scroll position stay.

import { sparkline } from "./chart.js";
import { byId, element, isolated, setText, svg } from "./dom.js";
import { formatCount, formatPercent, percent } from "./format.js";
import { SORTS } from "./state.js";

const COLUMNS = [
  { key: "total", label: "Total", meaning: "Interactions of all types" },
  { key: "impression", label: "Impressions" },
  { key: "click", label: "Clicks" },
  { key: "dismiss", label: "Dismissals" },
  { key: "accept", label: "Acceptances" },
  { key: "convert", label: "Conversions" },
  { key: "ctr", label: "CTR", meaning: "Clicks per 100 impressions", percent: true },
  { key: "cvr", label: "CVR", meaning: "Conversions per 100 impressions", percent: true },
];
const stillMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Return the id of a row of any grouping. */
export function idOf(row) {
  return row.id ?? row.customerId;
}

/** Return what is shown as the name of a row: that of the catalog, or the id. */
export function nameOf(row) {
  return row.name || idOf(row);
}

function detailsOf(groupBy, row) {
  const known = row.name ? [idOf(row)] : [];
  if (groupBy === "action") known.push(row.issue, row.group);
  if (groupBy === "treatment") known.push(row.offerName, row.channelName);
  if (groupBy === "channel") known.push(row.channelType);
  if (groupBy === "customer") known.push(`${formatCount(row.uniqueActions)} actions`);
  return known.filter(Boolean);
}

/** Return the value of a column. Rates that a grouping lacks follow from its counts. */
function valueOf(row, column) {
  if (row[column.key] !== undefined) return row[column.key];
  return percent(column.key === "ctr" ? row.click : row.convert, row.impression);
}

export class Table {
  /** `onSort(key)` and `onSelect(id)`: called on a click. */
  constructor({ onSort, onSelect }) {
    this.body = byId("rows");
    this.rows = new Map();
    this.groupBy = null;
    this.headers = this.#makeHead(onSort);
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      // A click that ends the selection of text is no choice of a row.
      if (row && String(getSelection()) === "") onSelect(row.dataset.id);
    });
    const frame = byId("table-frame");
    const table = byId("table");
    // The head sticks to the window only while the frame need not scroll.
    const fit = () => frame.classList.toggle("fits", table.scrollWidth <= frame.clientWidth);
    const observer = new ResizeObserver(fit);
    observer.observe(frame);
    observer.observe(table);
  }

  #makeHead(onSort) {
    const headers = new Map();
    const row = byId("head");
    row.append(element("th", { className: "name", textContent: "Name" }, { scope: "col" }));
    for (const { key, label, meaning } of COLUMNS) {
      const header = element("th", { className: `number ${key}` }, { scope: "col" });
      if (SORTS.includes(key)) {
        const button = element("button", { type: "button", title: meaning ?? "" }, {}, label, arrow());
        button.addEventListener("click", () => onSort(key));
        header.append(button);
        headers.set(key, header);
      } else {
        header.append(label);
      }
      row.append(header);
    }
    row.append(element("th", { className: "trend", textContent: "Trend" }, { scope: "col" }));
    return headers;
  }

  /** Show the rows of an answer: sorted by `sort`, with `selected` as the id of the chosen one. */
  render({ groupBy, summary }, { sort, selected }) {
    for (const [key, header] of this.headers) {
      if (key === sort) header.setAttribute("aria-sort", "descending");
      else header.removeAttribute("aria-sort");
    }
    if (groupBy !== this.groupBy) this.clear();
    this.groupBy = groupBy;
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    const known = this.rows;
    this.rows = new Map();
    const most = Math.max(...summary.map((data) => data.total), 1);
    let next = this.body.firstElementChild;
    for (const data of summary) {
      const id = idOf(data);
      const row = known.get(id) ?? new Row(id);
      this.rows.set(id, row);
      row.update(groupBy, data);
      row.setShare(data.total / most);
      if (row.element === next) next = next.nextElementSibling;
      else this.body.insertBefore(row.element, next);
    }
    for (const [id, row] of known) if (!this.rows.has(id)) row.element.remove();
    this.select(selected);
    // An element that is moved loses the focus.
    if (focused?.isConnected && focused !== document.activeElement) {
      focused.focus({ preventScroll: true });
    }
  }

  /** Mark the row of this id as chosen; null: none. */
  select(id) {
    for (const [each, row] of this.rows) row.select(each === id);
  }

  /** Show the days of the row of this id as a sparkline, if it is there. */
  setTrend(id, points) {
    this.rows.get(id)?.setTrend(points);
  }

  /** Return the name of a row, or the id of one that is not shown. */
  nameOf(id) {
    const row = this.rows.get(id);
    return row ? nameOf(row.data) : id;
  }

  focus(id) {
    this.rows.get(id)?.button.focus();
  }

  clear() {
    this.body.replaceChildren();
    this.rows = new Map();
  }
}

class Row {
  constructor(id) {
    this.data = null;
    this.points = null;
    this.button = element("button", { type: "button", className: "row-name" });
    this.button.setAttribute("aria-controls", "detail");
    this.details = element("span", { className: "row-details" });
    this.cells = COLUMNS.map(({ key }) => element("td", { className: `number ${key}` }));
    this.trend = element("td", { className: "trend" });
    const header = element("th", { className: "name" }, { scope: "row" }, this.button, this.details);
    this.element = element("tr", {}, { "data-id": id }, header, ...this.cells, this.trend);
  }

  update(groupBy, data) {
    const before = this.data;
    this.data = data;
    const name = nameOf(data);
    if (!before || nameOf(before) !== name) {
      this.button.replaceChildren(isolated(name));
      this.button.title = name;
    }
    const details = detailsOf(groupBy, data);
    if (!before || details.join("\n") !== detailsOf(groupBy, before).join("\n")) {
      const parts = details.flatMap((text, index) => (index ? [" · ", isolated(text)] : [isolated(text)]));
      this.details.replaceChildren(...parts);
    }
    COLUMNS.forEach((column, index) => {
      const value = valueOf(data, column);
      setText(this.cells[index], column.percent ? formatPercent(value) : formatCount(value));
    });
    if (before && before.total !== data.total) this.#flash();
  }

  select(chosen) {
    this.element.classList.toggle("chosen", chosen);
    this.button.setAttribute("aria-pressed", String(chosen));
  }

  /** Draw the row's total as a bar: 1 is the longest of the page. */
  setShare(share) {
    this.cells[0].style.setProperty("--share", share.toFixed(3));
  }

  setTrend(points) {
    if (points === this.points) return;
    this.points = points;
    const drawn = points.length ? [sparkline(points.map((point) => point.total))] : [];
    this.trend.replaceChildren(...drawn);
  }

  #flash() {
    if (stillMotion.matches || !this.cells[0].animate) return;
    const color = getComputedStyle(this.element).getPropertyValue("--flash");
    this.cells[0].animate([{ backgroundColor: color }, { backgroundColor: "transparent" }], 1_200);
  }
}

function arrow() {
  const path = svg("path", { d: "M2 4 L6 9 L10 4 Z" });
  return svg("svg", { class: "arrow", viewBox: "0 0 12 12", "aria-hidden": "true" }, path);
}
