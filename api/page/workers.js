// The workers that count, for who may see them: in short beside the other facts, and as a table.

import { byId, element, isolated, setText } from "./dom.js";
import { formatCount, formatDuration, formatPlural, formatRate } from "./format.js";

const WORKERS = "api/v1/workers";

export class Workers {
  constructor(client) {
    this.client = client;
    this.panel = byId("workers");
    this.refused = false;
  }

  /** Return whether the panel is open. */
  get open() {
    return this.panel.open;
  }

  /** Ask for the state of the workers, and show it. */
  async load(signal) {
    const { data } = await this.client.get(WORKERS, {}, { signal });
    const { workers, at, offsetsPerS, visible } = data;
    const rate = offsetsPerS === null ? "" : `${formatRate(offsetsPerS)} events/s`;
    showFact("rate", rate);
    showFact("fresh", visible ? formatDuration(visible.p99Ms) : "");
    const reporting = workers.filter((worker) => worker.state === "reporting");
    const summary = [formatPlural(reporting.length, "worker"), rate, waitingOf(data.lag)];
    setText(byId("workers-summary"), summary.filter(Boolean).join(" · "));
    const rows = workers.map((worker) => {
      const age = Math.max(0, Date.parse(at) - Date.parse(worker.reportedAt));
      return element(
        "tr",
        { className: worker.state },
        {},
        element("th", {}, { scope: "row" }, isolated(worker.worker || "not named")),
        element("td", { textContent: worker.state === "reporting" ? "counting" : "no report" }),
        element("td", { className: "number", textContent: worker.partitions.join(", ") }),
        element("td", {
          className: "number",
          textContent: worker.offsetsPerS === null ? "–" : formatRate(worker.offsetsPerS),
        }),
        element("td", {
          className: "number",
          textContent: worker.lag === null ? "–" : formatCount(worker.lag),
        }),
        element("td", { className: "number", textContent: `${formatDuration(age)} ago` }),
      );
    });
    byId("worker-rows").replaceChildren(...rows);
    byId("worker-table").hidden = rows.length === 0;
    if (!rows.length) setText(byId("workers-summary"), "No worker has reported yet.");
  }

  /** Say why there is nothing to see. */
  fail(message) {
    showFact("rate", "");
    showFact("fresh", "");
    byId("worker-table").hidden = true;
    setText(byId("workers-summary"), message);
  }
}

function showFact(name, text) {
  byId(`fact-${name}`).parentElement.hidden = text === "";
  setText(byId(`fact-${name}`), text);
}

function waitingOf(lag) {
  if (lag === null) return "lag not known";
  return lag === 0 ? "all events counted" : `${formatPlural(lag, "event")} waiting`;
}
