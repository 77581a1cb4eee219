"""The reader: answers questions over HTTP, from the counters or from history.

A request passes through these files in this order:

1. `server`: the HTTP server, in one process or several that share a socket. `protocol`: limits on
   the head of a request.
2. `middleware`: request id, limits, log line, metrics, and the response to unexpected errors.
   `hosts`: which names and origins are of this machine.
3. `routes`: the list of summaries; `group_routes`: one group, and a trend by day; `admin`: API keys
   and catalog, with bodies read by `body`; `system`: health, readiness and metrics; `workers`: what
   workers report; `docs_page`: the page `/docs`; `page_routes`: the page `/`, whose files are in
   `page`.
4. `access`: the tenant and role of the request. It uses `key_checker`, the active API keys in
   memory, and `rate_limit`.
5. `params`, `group_params`: the parameters, parsed and checked.
6. `reader`: the answer from the counters, or from history if the counters cannot give it. It uses
   `breaker`, the circuit breaker in front of the counters, and `guard`, which does not ask them
   while Redis may have evicted some. `group_reader` asks it about groups and trends.
7. `bodies`: the body, of rows (`store.summary`). A list may be in another order (`sorting`), or CSV
   (`csv_body`) if the client prefers it (`accept`). `responses`: the headers; `lag` supplies the
   number of events not yet counted.

`app` builds the application from these parts, `openapi` describes the endpoint, `errors` has the
one shape of all errors, and `tracing` makes spans of requests and of what they read.
"""
