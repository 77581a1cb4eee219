// Where the numbers come from, and how new they are.

import { byId, setText } from "./dom.js";
import { formatClock, formatLongDay, formatPlural } from "./format.js";

/** Show the headers of an answer; `announce(text)` tells a screen reader what has changed. */
export class Facts {
  constructor(announce) {
    this.announce = announce;
    this.source = null;
  }

  show(headers) {
    const source = headers.get("X-Summary-Source");
    const start = headers.get("X-Summary-Window-Start");
    const lag = headers.get("X-Summary-Lag");
    setText(byId("fact-source"), source === "history" ? "History" : "Counters");
    setText(byId("fact-window"), windowOf(headers.get("X-Summary-Period"), start));
    setText(byId("fact-zone"), headers.get("X-Summary-Timezone") ?? "not known");
    setText(byId("fact-lag"), waitingOf(lag));
    setText(byId("fact-updated"), formatClock(Date.now()));
    byId("history-note").hidden = source !== "history";
    if (this.source !== null && source !== this.source) {
      this.announce(source === "history" ? "History answers now." : "The counters answer again.");
    }
    this.source = source;
  }
}

function windowOf(period, start) {
  if (start === null) return "Everything since the first event";
  const day = formatLongDay(start);
  return period === "daily" ? `Today, ${day}` : `From ${day} to today`;
}

function waitingOf(lag) {
  if (lag === null) return "Not known";
  return formatPlural(Number(lag), "event");
}
