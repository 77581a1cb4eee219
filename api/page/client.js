// Requests to the API. The addresses are relative, so the page works below a prefix too.

const TIMEOUT_MS = 15_000;

/** An error of the API, or no answer at all (`status` 0). */
export class RequestError extends Error {
  constructor(status, message, retryAfterMs = 0) {
    super(message);
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }
}

export class Client {
  /** `key` and `tenant` return the API key and the tenant to name in the headers, or null. */
  constructor(key, tenant) {
    this.key = key;
    this.tenant = tenant;
    this.limit = null;
  }

  /** Forget the rate limit: it was that of another key. */
  reset() {
    this.limit = null;
  }

  /**
   * Return `{data, headers, etag}` of a GET; `data` is null if `etag` is still the current one.
   *
   * Throws RequestError; a DOMException of the name AbortError if `signal` ended the request.
   */
  async get(path, parameters = {}, { etag = null, signal = null } = {}) {
    // The limit is that of the key: while it lasts, no other request would be answered either.
    const leftMs = this.limit ? this.limit.until - Date.now() : 0;
    if (leftMs > 0) throw new RequestError(429, this.limit.message, leftMs);
    const headers = { Accept: "application/json" };
    if (etag) headers["If-None-Match"] = etag;
    if (this.key()) headers["X-API-Key"] = this.key();
    if (this.tenant()) headers["X-Tenant-Id"] = this.tenant();
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    const query = new URLSearchParams(parameters);
    let response, text;
    try {
      response = await fetch(query.size ? `${path}?${query}` : path, {
        headers,
        cache: "no-store",
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      });
      text = await response.text();
    } catch (error) {
      if (signal?.aborted) throw new DOMException("superseded", "AbortError");
      throw new RequestError(0, timeout.aborted ? "no answer within 15 s" : "no connection");
    }
    const found = { data: null, headers: response.headers, etag: response.headers.get("ETag") };
    if (response.status === 304) return found;
    const data = parse(text);
    if (response.ok && data !== null) return { ...found, data };
    const message = data?.error?.message ?? `the answer has the status ${response.status} and no reason`;
    const waitMs = retryAfterMs(response.headers.get("Retry-After"));
    if (response.status === 429) this.limit = { message, until: Date.now() + waitMs };
    throw new RequestError(response.status, message, waitMs);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a proxy's page, for example
  }
}

/** Return the ms of a header Retry-After: seconds, or a date. */
function retryAfterMs(value) {
  if (value === null) return 0;
  const ms = /^\d+$/.test(value) ? Number(value) * 1_000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : 0;
}
