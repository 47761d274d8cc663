# A client as people wrote them for the original: POST /build/, look at /status/ until it is success or failed, print the response.
# With the standard library in the place of requests.
import datetime
import json
import os
import sys
import time
import urllib.request


def request(url, body=None):
    headers = {"X-API-Key": os.environ["API_KEY"]}
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers)) as answer:
        return json.load(answer)


def build(base_url, build_params):
    invocation_id = request(f"{base_url}/build/", build_params)["invocation_id"]
    print(f"invocation_id={invocation_id}")
    while (state := request(f"{base_url}/status/{invocation_id}")["state"]) not in ("success", "failed"):
        print(f"state={state}")
        time.sleep(0.05)
    answer = request(f"{base_url}/status/{invocation_id}")
    print(json.dumps(answer, indent=2))
    took = datetime.datetime.fromisoformat(answer["timestamp_end"]) - datetime.datetime.fromisoformat(answer["timestamp_submission"])
    print("took", took)
    print(answer["response"])


build(sys.argv[1], json.load(sys.stdin))
