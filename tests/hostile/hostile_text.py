"""Hostile JSONL files."""

import json

from hostile_case import WIDTH, Case, header, jsonl, quarantined, refused, write

STEP = {"obs": [0.5] * WIDTH, "action": 1, "reward": 1.0, "logp": -0.7}
END = {"terminated": True, "truncated": False}


def cases(now):
    """Yield every JSONL case."""
    yield from _whole_files(now)
    yield from _episodes(now)
    yield from _several(now)


def _whole_files(now):
    good = jsonl(header("j", now))
    yield Case(name="empty.jsonl", make=write(b""), records=quarantined("truncated"))
    yield Case(name="blank.jsonl", make=write(b"\n\n"), records=quarantined("truncated"))
    yield Case(name="cut.jsonl", make=write(good[:-9]), records=quarantined("truncated"))
    yield Case(name="zeros.jsonl", make=write(bytes(5000)), records=(("quarantined", "malformed|truncated"),))
    yield Case(name="binary.jsonl", make=write(bytes(range(256)) + b"\n"), records=quarantined("malformed"))
    yield Case(name="no-header.jsonl", make=write(_lines(STEP, END)), records=quarantined("missing_field"))
    yield Case(name="list.jsonl", make=write(b"[1, 2]\n"), records=quarantined("malformed"))
    deep = b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"
    yield Case(name="deep.jsonl", make=write(deep), records=quarantined("too_large"))
    yield Case(
        name="header-60-mb.jsonl",
        make=write(lambda: b'{"env_id": "' + b"x" * 60_000_000 + b'"}\n' + _lines(STEP, END)),
        records=(("quarantined", "bad_value|too_large"),),
    )
    yield Case(
        name="keys-5-million.jsonl",
        make=write(
            lambda: b"{" + b",".join(b'"%d":1' % i for i in range(5_000_000)) + b"}\n" + _lines(STEP, END)
        ),
        records=(("quarantined", "too_large"),),
    )
    yield Case(
        name="brackets-60-mb.jsonl",
        make=write(lambda: b"[" * 60_000_000),
        records=(("quarantined", "truncated|too_large|malformed"),),
    )


def _episodes(now):
    def case(name, *lines, records=(), learned=0):
        head = header(name, now, terminated=None, truncated=None)
        content = b"".join(
            line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in (head, *lines)
        )
        return Case(name=f"{name}.jsonl", make=write(content), records=records, learned=learned)

    def step(text):
        return b'{"obs": [0.5, 0.5, 0.5], "action": 1, "reward": %s}\n' % text

    yield case("good-text", STEP, STEP, END, learned=1)
    yield case("text-nan", step(b"NaN"), END, records=quarantined("not_finite"))
    yield case("text-1e999", step(b"1e999"), END, records=quarantined("not_finite"))
    yield case("text-1e38", step(b"1e38"), END, records=refused("out_of_range"))
    yield case("text-long-number", step(b"1" * 9000), END, records=quarantined("too_large"))
    yield case("text-string", step(b'"1.0"'), END, records=quarantined("bad_dtype"))
    yield case("text-null", step(b"null"), END, records=quarantined("missing_field"))
    yield case("text-object", step(b'{"a": 1}'), END, records=quarantined("bad_dtype"))
    yield case(
        "text-twice",
        b'{"obs": [1,1,1], "action": 1, "reward": 1, "reward": 2}\n',
        END,
        records=quarantined("bad_value"),
    )
    yield case("text-ragged", STEP, {**STEP, "obs": [1, 2]}, END, records=quarantined("bad_shape"))
    yield case(
        "text-deep",
        {**STEP, "obs": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]},
        END,
        records=quarantined("too_large"),
    )
    yield case("text-early-end", {**STEP, "terminated": True}, STEP, END, records=quarantined("bad_value"))
    yield case("text-no-steps", END, records=quarantined("bad_shape"))
    yield case(
        "text-no-final", STEP, {"terminated": False, "truncated": True}, records=quarantined("missing_field")
    )
    yield case("text-not-utf8", b'{"obs": "\xff", "action": 1}\n', END, records=quarantined("malformed"))
    yield case(
        "text-huge-integer",
        {**STEP, "action": 10**40},
        END,
        records=(("quarantined", "bad_dtype|bad_value"),),
    )
    yield case("text-action-text", {**STEP, "action": "left"}, END, records=quarantined("bad_dtype"))


def _several(now):
    good = [jsonl(header(f"several-{i}", now)) for i in range(3)]
    bad = jsonl(header("several-bad", now), steps=[{**STEP, "reward": "x"}])
    yield Case(
        name="one-bad-of-four.jsonl",
        make=write(b"".join([good[0], bad, good[1], good[2]])),
        learned=3,
        records=quarantined("bad_dtype"),
        why="the bad one costs its neighbors nothing",
    )
    twice = jsonl(header("twice-in-one", now))
    yield Case(name="twice-in-one.jsonl", make=write(twice + twice), learned=1, records=refused("duplicate"))
    yield Case(
        name="too-many-episodes.jsonl",
        make=write(lambda: b"{}\n" * 300_000),
        records=quarantined("too_large"),
    )


def _lines(*values):
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def small(now) -> bytes:
    """A small valid file, whose every bit can be flipped."""
    return jsonl(header("small", round(now)), n=2)
