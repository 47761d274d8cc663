# What no schema says. Which addresses a stranger may name, and what goes with what: so two of three requests that are meant to be
# good get a document that is, and the runs get past the door; the third keeps what chance has made of them. And that null and "" in a
# document mean absent: so requests that are meant to be bad get something that is bad in the place of these.
import collections
import itertools
import os

import schemathesis

DOCUMENT = {
    "source": {"git_repo": {"url": "https://git.example.com/shop/web.git"}},
    "target": {"registry": {"url": "registry.example.com"}, "images": [{"image": "shop/web", "tag": "v1"}]},
}
BAD = {"no": {"such": ["field"]}}
turns = collections.defaultdict(itertools.count)  # by operation


@schemathesis.hook
def before_call(context, case, kwargs):
    label = case.operation.label
    with_token(case, kwargs)
    if case.meta is None:
        return
    if not case.meta.generation.mode.is_positive:
        if label == "POST /build/" and isinstance(case.body, dict):
            case.body = spoilt(case.body)
        elif label in ("POST /v1/invocations", "POST /v1/plan") and isinstance(case.body, dict) and isinstance(case.body.get("build_params"), dict):
            case.body = {**case.body, "build_params": spoilt(case.body["build_params"])}
        return
    if next(turns[label]) % 3 == 2:
        return
    if label == "POST /build/":
        case.body = DOCUMENT
    elif label in ("POST /v1/invocations", "POST /v1/plan"):
        case.body = {"build_params": DOCUMENT}
    elif label == "POST /v1/invocations/{invocation_id}/retry":
        case.body = {}
    elif label == "GET /v1/invocations":
        case.query.pop("page_token", None)


# Of two schemes schemathesis takes the first: every other request that has the key gets the token in its place.
def with_token(case, kwargs):
    for headers in (case.headers, kwargs.get("headers")):
        if headers and headers.get("X-API-Key") == os.environ["API_KEY"] and next(turns["token"]) % 2:
            del headers["X-API-Key"]
            headers["Authorization"] = "Bearer " + os.environ["TOKEN"]


def spoilt(value):
    if isinstance(value, dict):
        return {key: spoilt(v) for key, v in value.items()}
    if isinstance(value, list):
        return [spoilt(v) for v in value]
    return BAD if value is None or value == "" else value
