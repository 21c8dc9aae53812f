"""Where keys and values stand in a TOML file, in every form it may have."""

from __future__ import annotations

import tomli

from mcp_endpoint.settings.places import toml_places


def test_places_are_found_in_every_form_toml_has() -> None:
    text = '''a = 1 # x = 9
[ b . "c.d" ] # [z]
e.f = [ # g = 1
  "]", { h = "[" },
]
'i j' = """
k = 2
[l]
\\""" """
m = \'\'\'n = 3
\'\'\'
o = "p\\"q" # r
[[s]]
t = -1.5e3
[[s]]
t = 2
'''
    tomli.loads(text)
    places = toml_places(text)
    assert {".".join(path): place[:4] for path, place in places.items()} == {
        "a": (1, 1, 1, 5),
        "b.c.d": (2, 3, 2, 3),
        "b.c.d.e.f": (3, 1, 3, 7),
        "b.c.d.i j": (6, 1, 6, 9),
        "b.c.d.m": (10, 1, 10, 5),
        "b.c.d.o": (12, 1, 12, 5),
        "s": (13, 3, 13, 3),
        "s.1": (13, 3, 13, 3),
        "s.1.t": (14, 1, 14, 5),
        "s.2": (15, 3, 15, 3),
        "s.2.t": (16, 1, 16, 5),
    }
    assert places[("b", "c.d", "o")].value == '"p\\"q"'
    assert places.nearest(("b", "c.d", "e", "f", "h")) == places[("b", "c.d", "e", "f")]
    assert places.nearest(("zzz",))[:2] == (1, 1)
