// A request that is repeated: slower after errors, never while the page is hidden or paused.

const BACKOFF_MAX_MS = 60_000;

export class Poller {
  /**
   * `task(signal)`: the request; what it throws slows the next ones down.
   * `onError(error, waitMs)`: called with what it threw, unless the request was superseded.
   */
  constructor(task, { everyMs, onError }) {
    this.task = task;
    this.everyMs = everyMs;
    this.onError = onError;
    this.running = false;
    this.failures = 0;
    this.notBefore = 0;
    this.timer = null;
    this.request = null;
  }

  /** Begin, with a request now, or when Retry-After allows it. A running one is superseded. */
  start() {
    this.running = true;
    this.failures = 0;
    this.#next(Math.max(0, this.notBefore - Date.now()));
  }

  /** Stop. A running request is given up. */
  stop() {
    this.running = false;
    clearTimeout(this.timer);
    this.request?.abort();
  }

  /** Forget earlier errors: they were those of another key. */
  reset() {
    this.failures = 0;
    this.notBefore = 0;
  }

  #next(waitMs) {
    clearTimeout(this.timer);
    this.request?.abort();
    this.timer = setTimeout(() => this.#run(), waitMs);
  }

  async #run() {
    const request = (this.request = new AbortController());
    let waitMs = this.everyMs;
    try {
      await this.task(request.signal);
      if (request.signal.aborted) return;
      this.failures = 0;
    } catch (error) {
      if (request.signal.aborted) return;
      this.failures += 1;
      waitMs = backoff(this.everyMs, this.failures, error.retryAfterMs ?? 0);
      this.notBefore = Date.now() + (error.retryAfterMs ?? 0);
      this.onError(error, waitMs);
    }
    // Unless the answer, or the error, has led to another start or to a stop.
    if (this.running && !request.signal.aborted) this.#next(waitMs);
  }
}

/** Return the ms until the next attempt: twice as long each time, and not before Retry-After. */
export function backoff(everyMs, failures, retryAfterMs) {
  const wait = Math.min(BACKOFF_MAX_MS, everyMs * 2 ** failures);
  // Up to a quarter more, so that many pages do not come back at the same moment.
  return Math.max(wait, retryAfterMs) * (1 + Math.random() / 4);
}
