"""The reader: answers questions over HTTP, from the counters or from history.

A request passes through these files in this order:

1. `server`: the HTTP server, in one process or several that share a socket.
2. `middleware`: request id, limits, log line, metrics, and the response to unexpected errors.
3. `routes`: the summary endpoint; `system`: health, readiness and metrics.
4. `access`: the tenant and role of the request.
5. `params`: the query parameters, parsed and checked.
6. `reader`: the answer from the counters, or from history if the counters cannot give it. It uses
   `breaker`, the circuit breaker in front of the counters, and `guard`, which does not ask them
   while Redis may have evicted some.
7. `routes` again: the rows (`store.summary`), the JSON body and the headers. `lag` supplies the
   number of events not yet counted.

`app` builds the application from these parts, `openapi` describes the endpoint, and `errors` has
the one shape of all errors.
"""
