// The days of each visible row, for the sparklines: few requests at a time, kept with their ETag.

import { RequestError } from "./client.js";

export const TREND = "api/v1/interaction-summary/trend";
/** Rows of a page that have a sparkline. */
export const ROWS_MAX = 25;
const AT_ONCE = 3;
const FRESH_MS = 60_000;
const PAUSE_MS = 10_000;
const KEPT_MAX = 1_000;

export class Trends {
  /** `onTrend(id, points)`: called with the days of a row, oldest first. */
  constructor(client, onTrend) {
    this.client = client;
    this.onTrend = onTrend;
    this.kept = new Map();
    this.queue = [];
    this.running = 0;
    this.notBefore = 0;
    this.context = "";
    this.controller = new AbortController();
  }

  /** Show the days of these rows, and ask for those that are not known, or not lately. */
  want(groupBy, days, ids) {
    const context = `${groupBy} ${days}`;
    if (context !== this.context) this.stop();
    this.context = context;
    this.queue = [];
    for (const id of ids.slice(0, ROWS_MAX)) {
      const known = this.kept.get(`${context} ${id}`);
      if (known) this.onTrend(id, known.points);
      if (!known || Date.now() - known.at > FRESH_MS) this.queue.push({ groupBy, days, id, context });
    }
    this.#fill();
  }

  /** Give up what runs and what waits. */
  stop() {
    this.queue = [];
    this.controller.abort();
    this.controller = new AbortController();
  }

  /** Forget all days: they were those of another key. */
  clear() {
    this.stop();
    this.kept.clear();
    this.notBefore = 0;
  }

  #fill() {
    while (this.running < AT_ONCE && this.queue.length && Date.now() >= this.notBefore) {
      const wanted = this.queue.shift();
      this.running += 1;
      this.#load(wanted, this.controller.signal).finally(() => {
        this.running -= 1;
        this.#fill();
      });
    }
  }

  async #load({ groupBy, days, id, context }, signal) {
    const key = `${context} ${id}`;
    const known = this.kept.get(key);
    // Not asked again by the next answer of the list while this request runs.
    this.kept.set(key, { points: known?.points ?? [], etag: known?.etag ?? null, at: Date.now() });
    try {
      const found = await this.client.get(TREND, { groupBy, id, days }, { etag: known?.etag, signal });
      const points = found.data ? found.data.points : known.points;
      this.kept.set(key, { points, etag: found.etag, at: Date.now() });
      if (this.kept.size > KEPT_MAX) this.kept.delete(this.kept.keys().next().value);
      if (context === this.context) this.onTrend(id, points);
    } catch (error) {
      if (known) this.kept.set(key, known);
      else this.kept.delete(key);
      if (error.name === "AbortError") return;
      if (!(error instanceof RequestError)) throw error;
      // The list says what is wrong; sparklines can wait.
      this.notBefore = Date.now() + Math.max(PAUSE_MS, error.retryAfterMs);
    }
  }
}
