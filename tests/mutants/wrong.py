"""Wrong versions of the heart, made by hand: for every rule one way in which somebody could get it wrong.

Each is a small patch: `old` stands exactly once in the module, and `new` in its place breaks `rule`. `run.py` shows that the heart's
tests notice every one.
"""

from __future__ import annotations

from typing import NamedTuple


class Wrong(NamedTuple):
    """One wrong version."""

    rule: str
    module: str
    old: str
    new: str


WRONG = [
    Wrong(
        "a tap hears of a call once",
        "core/ledger",
        "            self.tap.ended(call, why, self.now)\n",
        '            self.tap.ended(call, why, self.now)\n            self.tap.answered(call, b"", b"", self.now)\n',
    ),
    # -- rules of the wire -------------------------------------------------------------------------------------------------
    Wrong(
        "a request is answered once, also when its provider answers after the endpoint did",
        "core/ledger",
        "if consumer is None or consumer.owed.pop(call, call) is not None:\n            return\n",
        "if consumer is None:\n            return\n        consumer.owed.pop(call, None)\n",
    ),
    Wrong(
        "a cancelled request gets no answer",
        "core/notifications",
        "            call.provider.pending.give_up(call.number)\n            assert place is not None\n",
        "            assert place is not None\n            consumer.owed[call] = None\n            self.ledger.in_flight += 1\n",
    ),
    Wrong(
        "what is carried is never encoded anew",
        "protocol/jsonrpc",
        '    if size < COPY_BELOW:\n        return data[:start] + new + data[end:], b""\n',
        '    if size < COPY_BELOW:\n        return _encode({**msgspec.json.decode(data), "id": Raw(new)}), b""\n',
    ),
    Wrong(
        "the place of the id is known, never guessed",
        "protocol/jsonrpc",
        "if start < 0 or data[start] <= 0x20:",
        "if start < 0:",
    ),
    Wrong(
        "a progress token is the link's own",
        "core/ledger",
        "            edits.append((token.start, token.end, number_text(number)))\n",
        "",
    ),
    Wrong(
        "`params: null` is taken out",
        "core/ledger",
        'edits.append(jsonrpc.without(data, "params", spans))',
        "pass",
    ),
    Wrong(
        "a provider hears one line",
        "protocol/jsonrpc",
        "data.translate(_LINE_BREAKS)",
        "data",
    ),
    Wrong(
        "a provider's ids are small positive integers of its own link",
        "core/parties",
        "        number = self._last + 1\n",
        "        number = self._last + 2**31\n",
    ),
    Wrong(
        "an answer has the consumer's id with its type",
        "core/endpoint",
        "            first, second = with_id(data, frame, call.id)\n        except Malformed as malformed:",
        "            first, second = with_id(data, frame, call.id.strip(b'\"') or b'0')\n        except Malformed as malformed:",
    ),
    Wrong(
        "ids are compared by value and type",
        "protocol/jsonrpc",
        "        return _encode(text) if len(text.encode()) <= string_bytes else None",
        "        return raw",
    ),
    Wrong(
        "null is no id",
        "protocol/jsonrpc",
        '        return b"0" if raw == b"-0" else raw\n    return None',
        '        return b"0" if raw == b"-0" else raw\n    return raw if raw == b"null" else None',
    ),
    Wrong(
        "`cancelled` naming a doubled id means the newest call",
        "core/notifications",
        "for call in reversed(consumer.owed):",
        "for call in list(consumer.owed):",
    ),
    Wrong(
        "an answer is looked up in the answering link's own table only",
        "core/endpoint",
        "            call = calls.get(number)\n            if call is None and len(calls)",
        "            tables = [other.pending.calls for other in self.providers if number in other.pending.calls]\n"
        "            call = tables[0][number] if tables else None\n"
        "            provider = call.provider or provider if call is not None else provider\n            calls = provider.pending.calls\n"
        "            if call is None and len(calls)",
    ),
    Wrong(
        "an answer to an expired or cancelled call is late, not unknown",
        "core/parties",
        "return self._late.pop(number, self) is None",
        "return False",
    ),
    Wrong(
        "an error has no `result` beside it",
        "core/endings",
        'edits = [jsonrpc.without(data, "result", spans), (spans["id"]',
        'edits = [(spans["id"]',
    ),
    Wrong(
        "notifications are never answered",
        "core/notifications",
        "            self._carry(consumer, frame, data)\n        except Malformed as malformed:\n",
        "            self._carry(consumer, frame, data)\n        except Malformed as malformed:\n"
        '            consumer.link.send(self.ledger.error(b"null", malformed.code, malformed.why))\n',
    ),
    Wrong(
        "order is kept while a provider is being greeted",
        "core/lifecycle",
        "provider.waiting = (*provider.waiting, Waiting(consumer, call, data))",
        "provider.waiting = (Waiting(consumer, call, data), *provider.waiting)",
    ),
    # -- one provider is a wire, several are one server --------------------------------------------------------------------
    Wrong(
        "exactly one `initialized` is ever sent",
        "core/lifecycle",
        "        if not provider.initialized_sent:\n",
        "        if True:\n",
    ),
    Wrong(
        "`initialized` is ours before the first request if the first consumer has not said it",
        "core/lifecycle",
        "if provider.state is State.READY:\n            self.end_handshake",
        "if provider.state is State.READY and provider.greeter is None:\n            self.end_handshake",
    ),
    Wrong(
        "later initializes are answered with the revision they asked for",
        "core/lifecycle",
        "    if asked not in methods.HANDSHAKE_REVISIONS or asked >= welcome.version:\n",
        "    if asked:\n",
    ),
    Wrong(
        "others wait while a provider is initializing",
        "core/routing",
        "if provider.state is State.INITIALIZING and provider.greeter is not call.consumer:",
        "if provider.state is State.INITIALIZING and provider.greeter is None:",
    ),
    Wrong(
        "a tool that insists on a handshake gets one, and only the second answer is shown",
        "core/lifecycle",
        "    if call.method == methods.TOOLS_LIST:\n        return True\n    try:",
        "    try:",
    ),
    Wrong(
        "the endpoint greets when a second provider attaches",
        "core/endpoint",
        "            self.changes.retry_parked(now)\n        else:\n            self.lifecycle.learn(now)\n        return provider",
        "            self.changes.retry_parked(now)\n        return provider",
    ),
    Wrong(
        "two bare peers hear nothing the endpoint made up",
        "core/roster",
        "        return len(self.providers) < 2 or any(is_bare(provider) for provider in self.providers)",
        "        return len(self.providers) < 2",
    ),
    Wrong(
        "a bare provider is never greeted again",
        "core/lifecycle",
        "            if provider.state is State.NEW:\n                self.greet(provider, now)\n            elif",
        "            if provider.state is State.BARE:\n                provider.state = State.NEW\n"
        "            if provider.state is State.NEW:\n                self.greet(provider, now)\n            elif",
    ),
    Wrong(
        "a silent provider is bare after five seconds, and a late result makes it ready",
        "core/parties",
        "    (State.BARE, Step.RESULT): State.READY,",
        "    (State.BARE, Step.RESULT): State.BARE,",
    ),
    Wrong(
        "older providers are pinged when one attaches",
        "core/endpoint",
        "            other.link.ping()",
        "            pass",
    ),
    Wrong(
        "the newest replica answers",
        "core/catalog",
        "        shelves.reverse()  # the newest first\n",
        "",
    ),
    Wrong(
        "a replica whose last call timed out is second choice",
        "core/catalog",
        "else 1 if shelf.provider.doubtful else 0)",
        "else 0)",
    ),
    Wrong(
        "an exported name means the same tool until the endpoint has no links",
        "core/catalog",
        "        self.shelves = kept\n        self.changed()\n",
        "        self.shelves = kept\n        self.changed()\n        self.owners.clear()\n        self.exported.clear()\n",
    ),
    Wrong(
        "a joined name has at most 64 characters",
        "core/catalog",
        """return f"{whole[: NAME_CHARS - 7]}_{more or _digest(whole)}\"""",
        "return whole",
    ),
    Wrong(
        "an old cursor gets the list from its start",
        "core/catalog",
        'return f"{self.revision}.{number}"',
        'return f"{number}"',
    ),
    Wrong(
        "consumers hear of a change only if the list's bytes changed",
        "core/lists",
        "if consumer.initialized and consumer.seen != fingerprint:",
        "if consumer.initialized:",
    ),
    Wrong(
        "consumers hear of changes at most once a second",
        "core/lists",
        "        due = self._announced + self.ledger.limits.list_changed_seconds\n",
        "        due = now\n",
    ),
    Wrong(
        "progress reaches the one consumer whose call it is about",
        "core/notifications",
        "        self.ledger.tell_consumer(call.consumer, jsonrpc.splice(data, [(place.start, place.end, call.token)]))",
        "        for consumer in self.roster.consumers:\n"
        "            self.ledger.tell_consumer(consumer, jsonrpc.splice(data, [(place.start, place.end, call.token)]))",
    ),
    Wrong(
        "a consumer is asked only if it is the one with a call in flight there",
        "core/ledger",
        "consumer = asking.pop() if len(asking) == 1 else None",
        "consumer = asking.pop() if asking else None",
    ),
    Wrong(
        "a consumer that let a question expire counts as not able",
        "core/ledger",
        "            consumer.declare(consumer.capabilities - {ask.capability})\n",
        "",
    ),
    # -- when nobody is there ------------------------------------------------------------------------------------------------
    Wrong(
        "the list of the real xiaozhi-server is held until a provider is ready",
        "core/lists",
        "return known and not self.waiting.draining",
        "return False",
    ),
    Wrong(
        "a held list waits until no other has attached for a second",
        "core/lists",
        "self.roster.attached_at + self.ledger.limits.hold_quiet_seconds,",
        "-NEVER,",
    ),
    Wrong(
        "a held list waits for a provider that has not answered yet",
        "core/lists",
        "due = max(self._quiet_at(), *(self._expected_until(provider) for provider in self.roster.providers))",
        "due = self._quiet_at()",
    ),
    Wrong(
        "a held list waits for a provider that died before it told its tools",
        "core/lists",
        "            self._lost_at = now",
        "            pass",
    ),
    Wrong(
        "a first list that comes late counts",
        "core/endings",
        """            call.deadline = NEVER
            self.ledger.watch.tell("no list", self.ledger.shown, label=provider.label)""",
        """            self.ledger.cancel(call, "timed out")
            self.ledger.watch.tell("no list", self.ledger.shown, label=provider.label)""",
    ),
    Wrong(
        "a number of ours may come back as a string",
        "core/endpoint",
        "number = int(id) if id.isdigit() and len(id) <= PLAIN_ID_CHARS else jsonrpc.number_given_back(id)",
        "number = int(id) if id.isdigit() and len(id) <= PLAIN_ID_CHARS else 0",
    ),
    Wrong(
        "an answer that cannot be read ends its call at once",
        "core/endpoint",
        "            if isinstance(unreadable, Unreadable):",
        "            if False:",
    ),
    Wrong(
        "an unreadable answer that names nobody ends nobody's of several calls",
        "core/unreadable",
        "number = next(iter(calls)) if unreadable.number is None and len(calls) == 1 else unreadable.number",
        "number = next(iter(calls), None) if unreadable.number is None else unreadable.number",
    ),
    Wrong(
        "calls in flight are answered at once when their provider leaves",
        "core/endings",
        "                    self.ledger.fail(call, errors.PROVIDER_GONE, self.delivery.last_close_text(), delivered=True)",
        "                    pass",
    ),
    Wrong(
        "a provider's tools stay listed for ten seconds",
        "core/expiry",
        "    if at.catalog.sweep(now - at.ledger.limits.grace_seconds):",
        "    if at.catalog.sweep(now):",
    ),
    Wrong(
        "a call that waits for its tool goes to no other label's",
        "core/routing",
        "elif any(shelf.label == label for shelf in self.catalog.shelves) or",
        "elif self.roster.providers:\n            self.delivery.carry(self.roster.providers[-1], call, frame, data)\n"
        "        elif any(shelf.label == label for shelf in self.catalog.shelves) or",
    ),
    Wrong(
        "the provider hears `cancelled` when a deadline has passed",
        "core/endings",
        '            provider.doubt()\n            self.ledger.cancel(call, "timed out")\n',
        "            provider.doubt()\n            provider.pending.give_up(call.number)\n",
    ),
    Wrong(
        "an initialize is never cancelled",
        "core/endings",
        "            # Kept without a deadline: a late result still makes the provider ready.\n",
        '            self.ledger.tell_provider(provider, jsonrpc.notification("notifications/cancelled", {"requestId": call.number}))\n',
    ),
    Wrong(
        "progress extends a call to three hundred seconds in all and not more",
        "core/notifications",
        "now + self.settings.call_timeout, call.started + self.ledger.limits.progress_seconds)",
        "now + self.settings.call_timeout, float('inf'))",
    ),
    Wrong(
        "a consumer that leaves cancels its calls",
        "core/ledger",
        '                self.cancel(call, "the consumer left")',
        "                call.provider.pending.give_up(call.number)",
    ),
    # -- managed servers -------------------------------------------------------------------------------------------------------------
    Wrong(
        "the initialize of an in-process consumer is never carried",
        "core/lifecycle",
        'and self.settings.greet == "consumer" and not consumer.in_process:',
        'and self.settings.greet == "consumer":',
    ),
    Wrong(
        "somebody who sees one label reaches no other's tools",
        "core/routing",
        "            if name is not None and self._to_replica(label, name, call, frame, data, None):\n",
        "            label = next((shelf.label for shelf in self.catalog.shelves if name in shelf.tools), label)\n"
        "            if name is not None and self._to_replica(label, name, call, frame, data, None):\n",
    ),
    Wrong(
        "somebody who sees one label is listed no other's tools",
        "core/catalog",
        "            if shelf.label == label:\n                here",
        "            if shelf.label:\n                here",
    ),
    Wrong(
        "a call waits for an in-process consumer that thinks about a question",
        "core/ledger",
        "                    call.deadline = max(call.deadline, longer)\n",
        "                    pass\n",
    ),
    Wrong(
        "managed providers leave with the last consumer",
        "core/broker",
        "            if not endpoint.consumers:\n                self.on_idle(endpoint)",
        "            if endpoint.empty:\n                self.on_idle(endpoint)",
    ),
    Wrong(
        "managed providers come once",
        "core/broker",
        "        if len(endpoint.consumers) == 1:\n",
        "        if endpoint.consumers:\n",
    ),
    Wrong(
        "a call that may have run is not repeated unless its tool says that it may",
        "core/endings",
        "elif call.again and call.purpose == REPEATABLE:",
        "elif call.again:",
    ),
    Wrong(
        "a call that may run twice goes to a replica when its provider dies",
        "core/endings",
        "elif call.again and call.purpose == REPEATABLE:",
        "elif call.again and call.purpose == REPEATABLE and self.waiting.draining:",
    ),
    Wrong(
        "only a managed provider is believed that a call reached nobody",
        "core/endings",
        "            if call.again and provider.managed and _may_be_repeated(",
        "            if call.again and _may_be_repeated(",
    ),
    Wrong(
        "a call that reached nobody is tried once with each replica",
        "core/routing",
        "if shelf.provider not in call.tried]",
        "if shelf.provider not in call.tried[1:]]",
    ),
    Wrong(
        "only an error that says so means that a call reached nobody",
        "core/endings",
        "error.data is not None and error.data.delivered is False",
        "error.data is not None",
    ),
    Wrong(
        "of a call that was tried nobody says that it reached nobody",
        "core/ledger",
        "        if call.tried and not delivered:\n            delivered = None\n",
        "",
    ),
    # -- prompts, resources and what else is offered ---------------------------------------------------------------------------
    Wrong(
        "an update reaches those who subscribed and nobody else",
        "core/notifications",
        "            if method == methods.UPDATED and self.features.updated(provider, data):\n                return\n",
        "",
    ),
    Wrong(
        "a subscriber hears of a resource under the URI it knows",
        "core/features",
        "frame = data if name == own else splice(data, [(place.start, place.end, _encode(name))])",
        "frame = data",
    ),
    Wrong(
        "a provider is told to unsubscribe by the last subscriber and not before",
        "core/features",
        "        elif consumer in known and len(known) > 1:\n",
        "        elif consumer in known and len(known) > 2:\n",
    ),
    Wrong(
        "a subscriber that leaves ends its subscription",
        "core/features",
        '                self._tell(provider, methods.UNSUBSCRIBE, {"uri": own}, now)\n',
        "",
    ),
    Wrong(
        "a provider logs as much as the most talkative level anybody asked for",
        "core/features",
        'self._tell(provider, methods.SET_LEVEL, {"level": methods.LEVELS[min(levels)]}, now)',
        'self._tell(provider, SET_LEVEL, {"level": LEVELS[max(levels)]}, now)',
    ),
    Wrong(
        "a consumer hears no message below the level it asked for",
        "core/features",
        "return [consumer for consumer in consumers if consumer.level <= level]",
        "return consumers",
    ),
    Wrong(
        "what changed is asked for again",
        "core/features",
        "            self.listed.pop((provider, kind), None)\n            listing = ",
        "            listing = ",
    ),
    Wrong(
        "whoever did not declare resources is not asked for them",
        "core/features",
        "        return [provider for provider in ready if provider.welcome is not None and capability in provider.welcome.capabilities]",
        "        return list(ready)",
    ),
    Wrong(
        "an exported URI is still a URI",
        "core/catalog",
        'scheme = label.replace("_", "-") + ',
        "scheme = label + ",
    ),
    Wrong(
        "an unlisted URI belongs to the template it fits",
        "core/features",
        "if shelves and fits(exported, name):",
        "if shelves and exported == name:",
    ),
    # -- small holes -------------------------------------------------------------------------------------------------------------
    Wrong(
        "a name that was called keeps its meaning when none is left",
        "core/catalog",
        "if owner not in here and exported not in self.called:",
        "if owner not in here:",
    ),
    Wrong(
        "names that nobody called are given anew when none is left",
        "core/catalog",
        "                        self._free()\n",
        "                        pass\n",
    ),
    Wrong(
        "what waited too long for a greeting gives its room back",
        "core/lifecycle",
        "            provider.waiting_bytes = sum(len(waiting.data) for waiting in kept)\n",
        "",
    ),
]
