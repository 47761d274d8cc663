#!/usr/bin/env python3
"""client.py [OPTION...] FILE|FOLDER... sends build_params documents to an image-builder service and tells what comes of them.

It needs Python 3.8 or newer and nothing else. Of a folder, all *.json, *.yaml and *.yml in it are sent. Results go to standard output,
one line for each image: its reference and its digest. What people read goes to standard error.

Credentials come from IMAGE_BUILDER_API_KEY or IMAGE_BUILDER_TOKEN, or from files: what is given as an option, other
users of the machine can read. ^C cancels the builds that are waited for; a second one leaves at once.

Exit codes: 0 all is built; 1 a build failed; 2 wrong input or usage; 3 cancelled; 4 denied; 75 try again.
"""
import argparse
import http.client
import json
import os
import re
import signal
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

OK, FAILED, INVALID, CANCELLED, DENIED, TRY_AGAIN = 0, 1, 2, 3, 4, 75
REASONS = {  # of a build that did not succeed, to exit codes; what is not here is FAILED
    "invalid": INVALID, "denied": DENIED, "cancelled": CANCELLED, "unavailable": TRY_AGAIN, "expired": TRY_AGAIN, "lost": TRY_AGAIN,
}
SILENCE = 60  # seconds without a byte after which a connection is given up; followed logs have a comment each 15 s
POLL, LONGEST_POLL = 0.5, 5.0  # seconds between two looks at a build, at first and later
LONGEST_PAUSE = 60.0  # seconds between two tries, whatever Retry-After says
# A document bounds what the service sends of it; a line of its log is at most 64 KiB, and JSON escapes make six bytes of one.
LONGEST_LINE = 1 << 20
CONTROL = re.compile(r"\x1b\[[0-9;]*m|[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # colours, which may stay, and what would move a terminal's cursor


class Trouble(Exception):
    """An error that ends one document's way, with an exit code."""

    def __init__(self, code, message, hint=""):
        super().__init__(message)
        self.code, self.hint = code, hint


class Passing(Exception):
    """Something that the same request may not meet the next time."""

    def __init__(self, message, after=None, answered=False):
        super().__init__(message)
        self.after, self.answered = after, answered


class StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the credentials would go along, wherever it leads."""

    def redirect_request(self, *_):
        return None


def say(text):
    print(text, file=sys.stderr, flush=True)


def printable(text):
    """Leaves nothing in a text that a terminal would obey, but colours."""
    return CONTROL.sub(lambda m: m.group() if m.group().startswith("\x1b[") else "", text)


class Service:
    """The service, and who asks."""

    def __init__(self, options):
        self.url = options.url.rstrip("/")
        self.options = options
        handlers = [StayHere()]
        if options.ca_cert:
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=options.ca_cert)))
        self.opener = urllib.request.build_opener(*handlers)

    def credentials(self):
        """Looks files up each time: a token may have been renewed meanwhile."""
        o = self.options
        token = o.token or (read_secret(o.token_file) if o.token_file else "")
        key = o.api_key or (read_secret(o.api_key_file) if o.api_key_file else "")
        if not token and not key:
            token, key = os.environ.get("IMAGE_BUILDER_TOKEN", ""), os.environ.get("IMAGE_BUILDER_API_KEY", "")
        key, token = key.strip(), token.strip()
        if not re.fullmatch(r"[!-~]*", key + token):
            raise Trouble(INVALID, "the API key or token holds characters that none has")  # http.client would show it in its error
        if token:
            return {"Authorization": "Bearer " + token}
        return {"X-API-Key": key} if key else {}

    def open(self, method, path, body=None, headers=None):
        """Sends one request and gives the answer, whose body is yet to be read."""
        sent = {"Accept": "application/json", "User-Agent": "image-builder-client"}
        sent.update(self.credentials())
        sent.update(headers or {})
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data=data, headers=sent, method=method)
        try:
            return self.opener.open(request, timeout=SILENCE)
        except urllib.error.HTTPError as e:
            with e:
                raise refusal(e, e.read(LONGEST_LINE)) from None
        except urllib.error.URLError as e:
            if isinstance(e.reason, ssl.SSLCertVerificationError):
                raise Trouble(INVALID, "%s: its certificate is not trusted: %s" % (self.url, e.reason.verify_message),
                              "name a file with its authority's certificate by --ca-cert") from None
            raise Passing("%s: %s" % (self.url, e.reason), answered=isinstance(e.reason, ConnectionRefusedError)) from None
        except (OSError, http.client.HTTPException) as e:
            raise Passing("%s: %s" % (self.url, e or type(e).__name__)) from None

    def ask(self, method, path, body=None, headers=None):
        """Sends one request and gives the JSON of the answer."""
        with self.open(method, path, body, headers) as answer:
            try:
                return json.load(answer)
            except ValueError:
                raise Trouble(FAILED, "%s: the answer is no JSON" % self.url, "is it an image-builder service?") from None
            except (OSError, http.client.HTTPException) as e:
                raise Passing("%s: %s" % (self.url, e or type(e).__name__)) from None

    def insist(self, method, path, body=None, headers=None, again=lambda trouble: True):
        """Is ask, tried again as long as that may help."""
        until, pause = time.monotonic() + self.options.patience, 0.5
        while True:
            try:
                return self.ask(method, path, body, headers)
            except Passing as trouble:
                wait = min(trouble.after or pause, LONGEST_PAUSE)
                if not again(trouble) or time.monotonic() + wait > until:
                    raise Trouble(TRY_AGAIN, str(trouble)) from None
                say("%s; trying again in %.0f s" % (trouble, wait) if wait >= 1 else str(trouble))
                time.sleep(wait)
                pause = min(pause * 2, LONGEST_PAUSE)


def refusal(answer, body):
    """Makes an error of an answer: problem details (RFC 9457), or the original's JSON strings."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    hint = ""
    if isinstance(said, dict):
        text = str(said.get("detail") or said.get("title") or answer.reason)
        hint = str(said.get("hint") or "")
        for item in said.get("errors") or []:
            text += "\n  %s: %s" % (item.get("pointer", ""), item.get("message", ""))
            if item.get("hint"):
                text += " (%s)" % item["hint"]
    else:
        text = said if isinstance(said, str) else str(answer.reason)
    text = printable("%s (status %d)" % (text, answer.code))
    if answer.code in (429, 502, 503, 504):
        after = answer.headers.get("Retry-After", "")
        return Passing(text, float(after) if after.isdigit() else None, answered=answer.code in (429, 503))
    if answer.code in (401, 403):
        if answer.code == 401 and not hint:
            hint = "set IMAGE_BUILDER_API_KEY or IMAGE_BUILDER_TOKEN"
        return Trouble(DENIED, text, hint)
    if 300 <= answer.code < 400:
        return Trouble(INVALID, "the service is at %s" % printable(answer.headers.get("Location", "another address")), "give that as --url")
    return Trouble(INVALID if answer.code in (400, 409, 413, 415, 422) else FAILED, text, hint)


def read_secret(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise Trouble(INVALID, "read %s: %s" % (path, getattr(e, "strerror", None) or "it is no text")) from None


class Build:
    """One document on its way."""

    def __init__(self, path, document, key):
        self.path, self.document = path, document
        self.key = key  # of idempotency: however often it is sent, it is built once
        self.id = None
        self.sent = False  # whether the service may have it
        self.code = None  # exit code, once it has ended
        self.seen = 0  # id of the last event of the log
        self.steps = {}  # of the log: id → (number, unfinished line)

    def submit(self, service):
        o = service.options
        self.sent = True
        if o.compat:
            # Without a key, what may have arrived is not sent again.
            self.id = service.insist("POST", "/build/", self.document, again=lambda trouble: trouble.answered)["invocation_id"]
        else:
            body = {"build_params": self.document}
            for name in ("timeout", "priority"):
                if getattr(o, name):
                    body[name] = getattr(o, name)
            if o.label:
                body["labels"] = dict(o.label)
            self.id = service.insist("POST", "/v1/invocations", body, {"Idempotency-Key": self.key})["id"]
        say("%s: build %s" % (self.path, self.id))

    def wait(self, service):
        """Waits for the end and tells it."""
        if service.options.compat:
            return self.wait_compat(service)
        if service.options.follow:
            self.follow(service)
        pause, state = POLL, None
        while True:
            build = service.insist("GET", "/v1/invocations/" + self.id)
            if build["state"] != state:
                state = build["state"]
                say("%s: %s" % (self.path, state))
            if build["state"] in ("success", "failed", "cancelled"):
                return self.end(build)
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL)

    def wait_compat(self, service):
        pause = POLL
        while True:
            build = service.insist("GET", "/status/" + self.id)
            if build["state"] in ("success", "failed"):
                break
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL)
        self.code = OK if build["state"] == "success" else FAILED
        text = printable(build.get("response") or build["state"])
        if self.code == OK:
            print(text, flush=True)
        else:
            say("error: %s: %s" % (self.path, text))

    def end(self, build):
        for v in build.get("variants") or []:
            if v.get("digest"):
                print("%s %s" % (v["ref"], v["digest"]), flush=True)
        self.code = OK
        if build["state"] == "success":
            return
        failure = build.get("failure") or {}
        reason = build.get("reason") or failure.get("reason") or build["state"]
        self.code = CANCELLED if build["state"] == "cancelled" else REASONS.get(reason, FAILED)
        say(printable("error: %s: %s: %s" % (self.path, reason, failure.get("message") or build.get("message") or "")))
        if failure.get("hint"):
            say(printable("hint: " + failure["hint"]))

    def cancel(self, service):
        if not self.sent or self.code is not None:
            return
        if service.options.compat:
            say("%s: %s goes on: the original's API cannot cancel" % (self.path, self.id or "its build, if it was accepted,"))
            self.code = CANCELLED
            return
        if self.id is None:
            self.submit(service)  # with the same key: it is there once, and now has a name
        service.insist("POST", "/v1/invocations/%s/cancel" % self.id)

    def follow(self, service):
        """Shows the log until its end, over as many connections as that takes."""
        pause = POLL
        until = time.monotonic() + service.options.patience
        while True:
            before = self.seen
            try:
                headers = {"Accept": "text/event-stream"}
                if self.seen:
                    headers["Last-Event-ID"] = str(self.seen)
                with service.open("GET", "/v1/invocations/%s/log" % self.id, headers=headers) as stream:
                    until = time.monotonic() + service.options.patience
                    if self.show(stream):
                        return
            except Passing as trouble:
                if time.monotonic() > until:
                    raise Trouble(TRY_AGAIN, str(trouble)) from None
                pause = max(pause, min(trouble.after or 0, LONGEST_PAUSE))
            except BrokenPipeError:
                raise  # ours: nobody reads what we print
            except (OSError, http.client.HTTPException):
                pass  # the connection was cut: the next one goes on where this one was
            if self.seen != before:
                pause = POLL
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_POLL)

    def show(self, stream):
        """Shows events (https://html.spec.whatwg.org/multipage/server-sent-events.html); gives True after the last one."""
        kind, data, event_id = "message", [], None
        while True:
            line = stream.readline(LONGEST_LINE)
            if not line.endswith(b"\n"):
                return False  # cut, in the middle of a line or not
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text:
                field, _, value = text.partition(":")
                value = value[1:] if value.startswith(" ") else value
                if field == "event":
                    kind = value
                elif field == "data":
                    data.append(value)
                elif field == "id" and value.isdigit():
                    event_id = int(value)
                continue
            if data:
                self.event(kind, json.loads("\n".join(data)))
            if event_id is not None:
                self.seen = event_id
            if kind == "end":
                return True
            kind, data, event_id = "message", [], None

    def event(self, kind, data):
        if kind == "log":
            number, line = self.step(data["step"], data["step"])
            *whole, rest = (line + data["data"]).split("\n")
            for text in whole:
                say("#%d %s" % (number, printable(text.rsplit("\r", 1)[-1] if not text.endswith("\r") else text[:-1])))
            self.steps[data["step"]] = (number, rest)
        elif kind == "step":
            group = "[%s] " % data["group"] if data.get("group") else ""
            number, line = self.step(data["id"], group + data["name"])
            if data.get("ended_at"):
                if line:
                    say("#%d %s" % (number, printable(line)))
                end = "error: " + data["error"] if data.get("error") else "cached" if data.get("cached") else "done"
                say(printable("#%d %s" % (number, end)))
                self.steps[data["id"]] = (number, "")
        elif kind == "note":
            say(printable("%s: %s" % (data.get("level", "info"), data["text"])))

    def step(self, step_id, name):
        if step_id not in self.steps:
            self.steps[step_id] = (len(self.steps) + 1, "")
            say(printable("#%d %s" % (len(self.steps), name)))
        return self.steps[step_id]


def documents(paths, compat):
    """Reads all documents before anything is sent."""
    files = []
    for path in paths:
        if os.path.isdir(path):
            found = sorted(n for n in os.listdir(path) if n.lower().endswith((".json", ".yaml", ".yml")))
            if not found:
                raise Trouble(INVALID, "%s: there is no *.json, *.yaml or *.yml in it" % path)
            files += [os.path.join(path, name) for name in found]
        else:
            files.append(path)
    for path in files:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as e:
            raise Trouble(INVALID, "read %s: %s" % (path, getattr(e, "strerror", None) or e)) from None
        if path.lower().endswith((".yaml", ".yml")):
            if compat:
                raise Trouble(INVALID, "%s: the original's API takes JSON only" % path, "image-builder convert %s --to json makes it" % path)
            yield path, text  # the service reads it
            continue
        try:
            yield path, json.loads(text)
        except ValueError as e:
            raise Trouble(INVALID, "%s: it is no JSON: %s" % (path, e)) from None


def label(text):
    name, sep, value = text.partition("=")
    if not sep or not name:
        raise argparse.ArgumentTypeError("%r is not NAME=VALUE" % text)
    return name, value


def arguments():
    p = argparse.ArgumentParser(prog="client.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    env = os.environ.get
    p.add_argument("paths", nargs="+", metavar="FILE|FOLDER", help="a build_params document, or a folder of them")
    p.add_argument("--url", default=env("IMAGE_BUILDER_URL") or "http://127.0.0.1:8080", help="of the service; default IMAGE_BUILDER_URL, then %(default)s")
    who = p.add_mutually_exclusive_group()
    who.add_argument("--api-key", metavar="KEY", help="default IMAGE_BUILDER_API_KEY")
    who.add_argument("--api-key-file", metavar="FILE")
    who.add_argument("--token", help="bearer token of OAuth 2; default IMAGE_BUILDER_TOKEN")
    who.add_argument("--token-file", metavar="FILE", help="read again whenever a token is needed")
    p.add_argument("--ca-cert", metavar="FILE", help="who vouches for the service, in PEM form")
    p.add_argument("--no-wait", action="store_true", help="leave once all documents are accepted")
    p.add_argument("--no-follow", dest="follow", action="store_false", help="do not show the logs while waiting")
    p.add_argument("--follow", dest="follow", action="store_true", default=True, help="show them: the default")
    p.add_argument("--label", type=label, action="append", metavar="NAME=VALUE", help="to find the builds by; may be repeated")
    p.add_argument("--timeout", metavar="DURATION", help="the longest that a build may run, as 30m")
    p.add_argument("--priority", type=int, choices=(1, 2, 3, 4), help="among one's own builds; 4 goes first")
    p.add_argument("--patience", type=float, default=600, metavar="SECONDS", help="how long a service that does not answer is tried; default 600")
    p.add_argument("--idempotency-key", metavar="KEY", help="of a single document: a build that was made with it before is taken up again")
    p.add_argument("--compat", action="store_true", help="use the API of the original image builder: /build/ and /status/")
    options = p.parse_args()
    if options.compat:
        options.follow = False
    if options.compat and (options.label or options.timeout or options.priority or options.idempotency_key):
        p.error("--compat: the original's API has no labels, timeouts, priorities and keys")
    if not options.url.startswith(("http://", "https://")):
        p.error("--url: %r is no http or https URL" % options.url)
    return options


def complain(where, trouble):
    say("error: %s%s" % (where, trouble))
    if trouble.hint:
        say("hint: " + printable(trouble.hint))


def run(service, builds, options):
    for build in builds:
        try:
            build.submit(service)
            if options.no_wait:
                print("%s %s" % (build.path, build.id), flush=True)
                build.code = OK
        except Trouble as trouble:
            complain(build.path + ": ", trouble)
            build.code = trouble.code
    for build in builds:
        settle(service, build)


def settle(service, build):
    if build.code is not None:
        return
    try:
        build.wait(service)
    except Trouble as trouble:
        complain(build.path + ": ", trouble)
        build.code = trouble.code


def interrupted(service, builds):
    """Cancels what is waited for and sees it end; a second signal ends this process where it is."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(CANCELLED))
    running = [b for b in builds if b.sent and b.code is None]
    say("cancelling %d of %d builds; interrupt again to leave at once" % (len(running), len(builds)))
    service.options.follow = False
    for build in running:
        try:
            build.cancel(service)
        except Trouble as trouble:
            complain(build.path + ": cancel: ", trouble)
            build.code = trouble.code
    for build in running:
        settle(service, build)
    return CANCELLED


def stop(*_):
    raise KeyboardInterrupt


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, stop)
    try:
        found = list(documents(options.paths, options.compat))
        if options.idempotency_key and len(found) > 1:
            raise Trouble(INVALID, "--idempotency-key is for one document, and there are %d" % len(found))
        service = Service(options)
        service.credentials()
    except Trouble as trouble:
        complain("", trouble)
        return trouble.code
    builds = [Build(path, document, options.idempotency_key or str(uuid.uuid4())) for path, document in found]
    try:
        run(service, builds, options)
    except KeyboardInterrupt:
        return interrupted(service, builds)
    return next((b.code for b in builds if b.code), OK)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(TRY_AGAIN)  # nobody reads the results any more
