"""Compare the last 7 days of an action with the 7 days before.

Usage: INTERACTION_SUMMARY_KEY=krn_… python client.py URL ACTION
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

url, action = sys.argv[1:]
query = urllib.parse.urlencode(
    {"groupBy": "action", "id": action, "days": 7, "compare": "previous"}
)
request = urllib.request.Request(f"{url}/api/v1/interaction-summary/trend?{query}")
if key := os.environ.get("INTERACTION_SUMMARY_KEY"):
    request.add_header("X-API-Key", key)
try:
    with urllib.request.urlopen(request, timeout=10) as response:
        trend = json.load(response)
except urllib.error.HTTPError as error:  # every error has this shape
    sys.exit(json.load(error)["error"]["message"])

for now, before in zip(trend["points"], trend["previous"], strict=True):
    print(f"{now['date']}  {now['total']:6}  {now['total'] - before['total']:+6}  {now['ctr']:6}%")
