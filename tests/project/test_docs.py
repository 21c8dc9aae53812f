"""The documents: both languages say the same, and nothing a person can set, see or type is without its place in them."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import tomli
from running import BOUND, get, running
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from mcp_endpoint import __version__, errors
from mcp_endpoint.access.addresses import announcement
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.commands import main as cli
from mcp_endpoint.settings.described import REPEATED, SETTINGS, TOOL_TIMEOUT, environment_name
from mcp_endpoint.settings.load import load
from mcp_endpoint.settings.schema import Config, Recorder, Server
from mcp_endpoint.settings.sources import FILE
from mcp_endpoint.sockets import link

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/mcp_endpoint"
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if not path.name.endswith(".zh-CN.md"))
ENGLISH = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
CHINESE = [path.with_name(f"{path.stem}.zh-CN.md") for path in ENGLISH]
DESIGN = sorted((ROOT / "docs/design").glob("*.md"))
ALL = [*ENGLISH, *CHINESE, *DESIGN, ROOT / "CHANGELOG.md"]
LANGUAGES = ["", ".zh-CN"]

in_both = pytest.mark.parametrize("english", ENGLISH, ids=lambda path: path.stem)
in_each = pytest.mark.parametrize("document", ALL, ids=lambda path: f"{path.parent.name}/{path.stem}")
in_language = pytest.mark.parametrize("language", LANGUAGES, ids=["English", "Chinese"])


class Block(NamedTuple):
    """A fenced block."""

    language: str
    lines: tuple[str, ...]


class Page(NamedTuple):
    """A document, cut into what the tests look at."""

    headings: list[tuple[int, str]]
    """Level and text."""
    blocks: list[Block]
    tables: list[list[list[str]]]
    """Rows of cells, without the line under the head."""
    prose: str
    """All of it but the fenced blocks."""


def read(path: Path) -> Page:
    page = Page([], [], [], "")
    fence: list[str] | None = None
    prose: list[str] = []
    table: list[list[str]] = []
    for line in [*path.read_text("utf-8").splitlines(), ""]:
        if line.startswith("```"):
            if fence is None:
                fence = [line[3:]]
            else:
                page.blocks.append(Block(fence[0], tuple(fence[1:])))
                fence = None
        elif fence is not None:
            fence.append(line)
        else:
            prose.append(line)
            if line.startswith("|"):
                table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
            elif table:
                page.tables.append([row for row in table if not set("".join(row)) <= set("-: ")])
                table = []
            if found := re.fullmatch(r"(#{1,6}) (.+)", line):
                page.headings.append((len(found[1]), found[2]))
    assert fence is None, f"{path.name}: a fenced block has no end"
    return page._replace(prose="\n".join(prose))


def page(name: str, language: str) -> Page:
    return read(ROOT / f"docs/{name}{language}.md")


def codes(text: str) -> list[str]:
    """What stands in backticks, and every number: the same in each language."""
    return re.findall(r"`([^`]+)`", text) + re.findall(r"-?\d+", text)


def slug(heading: str) -> str:
    """The anchor GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def chinese(english: Path) -> Path:
    return english.with_name(f"{english.stem}.zh-CN.md")


# -- two languages --------------------------------------------------------------------------------------------------------------


@in_both
def test_both_languages_have_the_same_headings(english: Path) -> None:
    one, other = read(english), read(chinese(english))
    assert [level for level, _ in one.headings] == [level for level, _ in other.headings]
    assert [codes(text) for _, text in one.headings] == [codes(text) for _, text in other.headings]


@in_both
def test_both_languages_show_the_same_commands_and_files(english: Path) -> None:
    def said(path: Path) -> list[list[str]]:
        shown = [block for block in read(path).blocks if block.language != "text"]
        return [[block.language, *(re.sub(r"\s*# .*", "", line) for line in block.lines)] for block in shown]

    assert said(english) == said(chinese(english))
    assert [block.language for block in read(english).blocks] == [block.language for block in read(chinese(english)).blocks]


@in_both
def test_both_languages_have_the_same_tables(english: Path) -> None:
    def keys(path: Path) -> list[list[list[str]]]:
        return [[codes(row[0]) for row in table] for table in read(path).tables]

    assert keys(english) == keys(chinese(english))


@in_both
def test_each_language_points_to_the_other_and_stays_with_itself(english: Path) -> None:
    other = chinese(english)
    assert f"]({other.name})" in english.read_text("utf-8").splitlines()[2]
    first, *rest = other.read_text("utf-8").split("\n## ")
    assert f"]({english.name})" in first.splitlines()[2]
    for target in re.findall(r"\]\(([^)#]+\.md)", "\n".join(rest)):
        assert target.endswith(".zh-CN.md") or not chinese((other.parent / target).resolve()).exists(), target


# -- links ----------------------------------------------------------------------------------------------------------------------


@in_each
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(document).prose):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        to = (document.parent / name).resolve() if name else document
        assert to.exists(), f"{target} does not exist"
        assert to.is_relative_to(ROOT)
        if anchor:
            assert anchor in [slug(heading) for _, heading in read(to).headings], f"{target}: no such heading"


@in_language
def test_the_readme_leads_to_every_page(language: str) -> None:
    prose = read(ROOT / f"README{language}.md").prose
    for path in PAGES:
        assert f"(docs/{path.stem}{language}.md" in prose, path.name
    assert "(docs/design/README.md)" in prose


def test_the_index_of_the_design_names_every_page() -> None:
    prose = read(ROOT / "docs/design/README.md").prose
    for path in DESIGN:
        assert path.name == "README.md" or f"]({path.name})" in prose, path.name


def test_the_layers_of_the_design_are_those_that_are_checked() -> None:
    """Each layer of the contract, from the top, as a row of the table; what is in brackets there need not exist yet."""
    contracts = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = [re.findall(r"\w+", layer) for layer in contracts[0]["layers"]]
    there = [[name for name in layer if list(SOURCE.glob(f"{name}*"))] for layer in layers]
    (table,) = [table for table in read(ROOT / "docs/design/README.md").tables if table[0][0].startswith("layer")]
    told = [row[0].strip("`").split() for row in table[1:]]
    assert [sorted(layer) for layer in there if layer] == [sorted(layer) for layer in told]


def test_the_modules_of_the_core_stand_in_the_order_in_which_they_are_built_up() -> None:
    """Every module of core/ is named on its page; those of the table import only modules above them."""
    page = read(ROOT / "docs/design/core.md")
    modules = {path.stem: path for path in (SOURCE / "core").glob("*.py") if path.stem != "__init__"}
    (table,) = [table for table in page.tables if table[0][0] == "module"]
    order = [name for name in (row[0].strip("`").removeprefix("core/") for row in table) if name in modules]
    assert {name for name in modules if f"`core/{name}`" in page.prose} == set(modules)
    for place, name in enumerate(order):
        for node in ast.walk(ast.parse(modules[name].read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module in order:
                assert node.module in order[:place], f"{name} imports {node.module}, which stands below it"


@in_each
def test_no_path_of_a_certain_machine_is_shown(document: Path) -> None:
    assert not re.search(r"/(tmp|work|root|Users)/", document.read_text("utf-8"))


# -- the code that the documents name ----------------------------------------------------------------------------------------------

MCP_AND_MEDIA = re.compile(
    r"(tools|resources|prompts|notifications|completion|logging|sampling|elicitation|roots|server|subscriptions|tasks|text|application)/"
)
"""What has a slash in it and is a method of MCP, or a media type."""
MADE_LATER = re.compile(r"(data|logs|dist)/|mcp\.json$|accounts\.txt$")
"""Files that a checkout does not have: users and runs make them."""


def names_in(tree: ast.Module | ast.ClassDef) -> set[str]:
    """What a module or a class has, with what its classes have as `Class.name`."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{name}" for name in names_in(node)}
            elif isinstance(tree, ast.ClassDef):
                found |= {
                    part.attr
                    for part in ast.walk(node)
                    if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and getattr(part.value, "id", "") == "self"
                }
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.fixture(scope="module")
def code() -> dict[str, set[str]]:
    """Module, by its path with slashes → its names."""
    modules = SOURCE.rglob("*.py")
    return {module.relative_to(SOURCE).with_suffix("").as_posix(): names_in(ast.parse(module.read_text("utf-8"))) for module in modules}


def is_there(name: str, code: dict[str, set[str]]) -> bool:
    """Whether some module of this name, or of this folder and name, has what stands behind the dot."""
    module, _, rest = name.partition(".")
    return any(rest in names for path, names in code.items() if f"/{path}".endswith(f"/{module}"))


of_the_code = pytest.mark.parametrize(
    "document", [*DESIGN, ROOT / "CONTRIBUTING.md", ROOT / "CONTRIBUTING.zh-CN.md", ROOT / "SECURITY.md"], ids=lambda path: path.stem
)


@of_the_code
def test_every_name_of_the_code_exists(document: Path, code: dict[str, set[str]]) -> None:
    for name in re.findall(r"`([^`\n]+)`", read(document).prose):
        if re.fullmatch(r"(?:[a-z_0-9]+/)*[a-z_0-9]+(?:\.[A-Za-z_]\w*)+", name) and not MADE_LATER.search(name):
            known = (ROOT / name).exists() or (SOURCE / name).exists() or name in SETTINGS or name in ("serverInfo.name",)
            assert known or is_there(name, code), name


@of_the_code
def test_every_file_of_the_code_exists(document: Path, code: dict[str, set[str]]) -> None:
    for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)+/?)`", read(document).prose):
        if not MCP_AND_MEDIA.match(name) and not MADE_LATER.search(name):
            assert (ROOT / name).exists() or (SOURCE / name).exists() or name in code or is_there(name, code), name


# -- words ------------------------------------------------------------------------------------------------------------------------

OLD_WORDS = re.compile(
    r"\b(?:house|goodbyes?|doors?|heart|porters?|envoys?|leash|sieves?|keyrings?|farewells?|eras?|seats?|fleet|greet(?:s|ed|ing|ings)?)\b"
    r"|告别|问候|自取|密钥池|自带的服务器|转送|转达",
    re.I,
)
"""Words that only this project used for what MCP, RFC 6455 and others have names for."""
USED = [
    *ALL,
    ROOT / "SECURITY.md",
    ROOT / "benchmarks/RESULTS.md",
    *(ROOT / name for name in ("mcp-endpoint-server.cfg", ".env.example", "compose.yaml")),
]


@pytest.mark.parametrize("document", USED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_documents_use_the_words_of_the_field(document: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL))
    if document.suffix != ".md":
        text = "\n".join(line.partition("#")[2] for line in text.splitlines())
    found = {word.lower() for word in OLD_WORDS.findall(text)}
    assert not found, f"{document.name}: {', '.join(sorted(found))}"


# -- settings -------------------------------------------------------------------------------------------------------------------


def settings_of(page: Page) -> Iterator[tuple[str, str]]:
    """Name and default of every setting in the tables of docs/configuration, in order."""
    sections = [codes(text)[0].strip("[]") for level, text in page.headings if level == 2 and codes(text)]
    for section, table in zip(sections, page.tables, strict=True):
        for name, default, meaning in table[1:]:
            assert meaning
            yield f"{section}.{name.strip('`')}", default.strip("`")


def loaded(section: str, key: str, value: str, root: Path) -> object:
    """What a line of the file would set."""
    (root / "data").mkdir(exist_ok=True)
    (root / FILE).write_text(f"[{section}]\n{key} = {value}\n", "utf-8")
    return getattr(getattr(load(root, {}).config, section), key)


@in_language
def test_every_setting_stands_in_the_documents_with_its_default(language: str, tmp_path: Path) -> None:
    told = dict(settings_of(page("configuration", language)))
    tool = 'endpoint.tools."NAME".timeout'
    assert [name for name in told if name != tool] == list(SETTINGS)
    assert float(told.pop(tool)) == TOOL_TIMEOUT.default
    for name, default in told.items():
        setting = SETTINGS[name]
        assert loaded(setting.section, setting.key, default, tmp_path) == setting.default, name


@in_language
def test_every_setting_of_a_pool_and_of_a_gateway_stands_in_the_documents_with_its_default(language: str) -> None:
    tables = {table[1][0].strip("`"): table[1:] for table in page("gateway", language).tables}
    for section, first in (("credentials", "accounts"), ("gateway", "name")):
        known = REPEATED[section]
        assert [row[0].strip("`") for row in tables[first]] == list(known)
        for name, default, meaning in tables[first]:
            assert meaning
            if default:
                assert json.loads(default.strip("`")) == known[name.strip("`")].default, name


@in_language
def test_every_setting_of_a_target_that_is_dialled_stands_in_the_documents_with_its_default(language: str) -> None:
    (table,) = [table[1:] for table in page("xiaozhi-me", language).tables if table[1][0] == "`name`"]
    known = REPEATED["dial"]
    assert [row[0].strip("`") for row in table] == list(known)
    assert [row[1] for row in table] == ["", "", f'`"{known["endpoint"].default}"`']


@in_language
def test_the_settings_in_the_readme_are_settings(language: str, tmp_path: Path) -> None:
    tables = read(ROOT / f"README{language}.md").tables
    (table,) = [table for table in tables if table[1][0].startswith("`server.")]
    for name, default, meaning in table[1:]:
        setting = SETTINGS[name.strip("`")]
        assert loaded(setting.section, setting.key, default.strip("`"), tmp_path) == setting.default
        assert meaning


@in_each
def test_every_variable_that_is_named_is_a_setting(document: Path) -> None:
    known = {environment_name(setting) for setting in SETTINGS.values()} | {"MES_SECTION_KEY"}
    assert set(re.findall(r"MES_[A-Z_]*[A-Z]", document.read_text("utf-8"))) <= known


# -- errors ---------------------------------------------------------------------------------------------------------------------


def under(page: Page, heading: str) -> list[str]:
    """The numbers that the headings one level below `heading` begin with."""
    found: list[str] = []
    inside = False
    for level, text in page.headings:
        if level == 2:
            inside = text == heading
        elif inside:
            found += re.findall(r"^-?\d+", text)
    return found


def refusals() -> set[str]:
    """Every HTTP status of a refusal in the sources."""
    found = {"405"}  # the framework's own
    for module in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", "")
                said = name in ("Refusal", "BodyRefused")
                values = [*node.args[:1]] if said else [word.value for word in node.keywords if word.arg == "status_code"]
                for value in (part for argument in values for part in ast.walk(argument)):
                    if isinstance(value, ast.Constant) and isinstance(value.value, int) and value.value >= 400:
                        found.add(str(value.value))
    return found


@pytest.mark.parametrize(("language", "heading"), [("", "JSON-RPC errors"), (".zh-CN", "JSON-RPC 错误")])
def test_every_error_code_has_its_place(language: str, heading: str) -> None:
    known = [value for value in vars(errors).values() if isinstance(value, errors.Code)]
    told = under(page("errors", language), heading)
    assert sorted(map(int, told)) == sorted({code.number for code in known})
    prose = " ".join(page("errors", language).prose.split())
    for code in (errors.NOT_TAKEN, errors.NOT_LINKED, errors.TURNED_DOWN):  # the words that are not the heading of their number
        assert code.message.split(" / ")[language == ""] in prose


@pytest.mark.parametrize(("language", "heading"), [("", "Close codes"), (".zh-CN", "关闭代码")])
def test_every_close_code_and_each_of_our_reasons_has_its_place(language: str, heading: str) -> None:
    close_reasons = [value for value in vars(errors).values() if isinstance(value, errors.CloseReason)]
    told = page("errors", language)
    assert set(map(int, under(told, heading))) == {close_reason.code for close_reason in close_reasons} | set(link._HINTS)
    for code in {close_reason.code for close_reason in close_reasons}:
        reasons = [close_reason.reason for close_reason in close_reasons if close_reason.code == code]
        if len(reasons) > 1:
            assert all(f"`{reason}`" in told.prose for reason in reasons), reasons


@pytest.mark.parametrize(("language", "heading"), [("", "HTTP refusals"), (".zh-CN", "HTTP 拒绝")])
def test_every_http_refusal_has_its_place(language: str, heading: str) -> None:
    assert set(under(page("errors", language), heading)) == refusals()


@in_language
def test_every_reason_for_refusing_a_token_has_its_place(language: str) -> None:
    prose = page("errors", language).prose
    for module in ("access/tokens.py", "sockets/handshake.py"):
        for reason in re.findall(r'Refused\("([a-z-]+)"\)', (SOURCE / module).read_text("utf-8")):
            assert f"`{reason}`" in prose, reason


@in_language
def test_every_exit_code_has_its_place(language: str) -> None:
    told = {row[0] for row in page("errors", language).tables[-1]}
    assert {"0", "2", "130", str(errors.EXIT_FAILURE), str(errors.EXIT_CONFIG)} <= told


# -- commands -------------------------------------------------------------------------------------------------------------------


def commands(group: click.Command = cli.command, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its full name."""
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, f"{before}{name} ")
    else:
        yield before.strip(), group


@in_language
def test_every_command_has_its_place(language: str) -> None:
    told = [codes(text)[0] for level, text in page("commands", language).headings if level == 2]
    assert sorted(told) == sorted(name for name, _ in commands())


@in_language
def test_every_option_of_a_command_stands_in_a_document(language: str) -> None:
    everything = "\n".join((ROOT / "docs" / f"{path.stem}{language}.md").read_text("utf-8") for path in PAGES)
    for name, command in (*commands(), ("", cli.command)):
        for option in command.params:
            if isinstance(option, click.Option):
                assert any(re.search(rf"(?<![\w-]){spelling}(?![\w-])", everything) for spelling in option.opts), (name, option.opts)


def typed(document: Path) -> Iterator[list[str]]:
    """Every command line in a document's shell blocks, as words; variables before it and what follows a pipe are left out."""
    for block in read(document).blocks:
        if block.language == "bash":
            for line in block.lines:
                words = shlex.split(line, comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words = words[1:]
                if words:
                    yield words


def understood(words: list[str]) -> None:
    """Have the words read by the command they name. Raises click.UsageError, or KeyError for a command there is not."""
    if words[:1] == ["--root"]:
        words = words[2:]
    command: click.Command = cli.command if words else cli.serve
    name = ""
    while isinstance(command, click.Group):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words, parent=click.Context(cli.command, **cli.command.context_settings))


@in_each
def test_every_command_line_of_ours_is_understood(document: Path) -> None:
    for words in typed(document):
        if words[0] == "mcp-endpoint":
            arguments = words[1:]
        elif "main.py" in words:
            arguments = words[words.index("main.py") + 1 :]
        else:
            continue
        understood(arguments)


@in_each
def test_every_command_that_is_mentioned_exists(document: Path) -> None:
    known = {name for name, _ in commands()} | {name.split()[0] for name, _ in commands()}
    for mention in re.findall(r"(?:`|^)mcp-endpoint ([a-z][a-z ]*[a-z])", read(document).prose, re.MULTILINE):
        words = mention.split()
        assert " ".join(words[:2]) in known or words[0] in known, mention


@in_each
def test_every_make_target_exists(document: Path) -> None:
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    asked = {words[1] for words in typed(document) if words[0] == "make"}
    assert asked | set(re.findall(r"`make ([a-z]+)", read(document).prose)) <= known


@in_each
def test_every_file_that_a_command_line_names_exists(document: Path) -> None:
    for words in typed(document):
        for word in words:
            if re.match(r"(examples|docs|src|tests|benchmarks)/|requirements\.txt", word):
                assert (ROOT / word).exists(), word


# -- what is seen ---------------------------------------------------------------------------------------------------------------


def shown_key(text: str) -> str:
    found = re.search(r"health\?key=([A-Za-z0-9]{32})", text)
    assert found
    return found[1]


@in_language
def test_what_the_readme_says_one_sees_is_what_one_sees(language: str) -> None:
    block = next(block for block in read(ROOT / f"README{language}.md").blocks if block.language == "text")
    key = shown_key("\n".join(block.lines))
    assert "\n".join(block.lines) == announcement(Server(key=key), 8004, TokenCodec(key), contained=False)


@in_language
def test_the_addresses_of_a_xiaozhi_installation_are_shown_as_they_come(language: str) -> None:
    block = next(block for block in page("xiaozhi-esp32-server", language).blocks if block.language == "text")
    key = shown_key("\n".join(block.lines))
    server = Server(key=key, host="0.0.0.0", public_url="http://192.168.1.25:8004")
    assert announcement(server, 8004, TokenCodec(key), contained=True).startswith("\n".join(block.lines))


@in_language
def test_the_tool_in_the_readme_is_the_example(language: str) -> None:
    (line,) = [line for block in read(ROOT / f"README{language}.md").blocks for line in block.lines if line.startswith("calculator(")]
    name, _, description = line.partition(" - ")
    assert name == "calculator(python_expression*)"
    assert description in (ROOT / "examples/calculator.py").read_text("utf-8")


@in_language
async def test_every_metric_has_its_place(language: str, tmp_path: Path) -> None:
    told = {codes(row[0])[0] for table in page("monitoring", language).tables for row in table if codes(row[0])}
    async with running(Config(recorder=Recorder(on=True)), root=tmp_path) as server:
        address = f"ws://127.0.0.1:{server.port}/mcp_endpoint/call/?token="
        with pytest.raises(InvalidStatus):
            await connect(f"{address}{'A' * 43}=")
        async with connect(f"{address}docs"):
            pass
        async with asyncio.timeout(BOUND):
            scraped = b""
            while b"goodbyes" not in scraped:
                scraped = (await get(server.port, "/metrics")).body
    names = set(re.findall(r"^(?:# TYPE )?(mcp_endpoint_\w+|process_)", scraped.decode(), re.MULTILINE))
    general = {re.sub(r"goodbyes_\w+?_total", "goodbyes_CODE_total", re.sub(r"refused_\d+", "refused_STATUS", name)) for name in names}
    assert general - {"process_"} == {name for name in told if name.startswith("mcp_endpoint_")}
    assert "process_*" in told


@in_language
async def test_every_path_has_its_place(language: str) -> None:
    told = {codes(text)[0] for level, text in page("monitoring", language).headings if level == 2 and codes(text)}
    assert told == {"/health", "/ready", "/stats", "/metrics", "/mcp_endpoint/health"}
    async with running(Config()) as server:
        for path in told:
            assert (await get(server.port, path)).status in (200, 401), path


def test_the_changelog_begins_with_this_version() -> None:
    first = next(text for level, text in read(ROOT / "CHANGELOG.md").headings if level == 2)
    assert first.split()[0] == __version__
