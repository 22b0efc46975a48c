"""The house rules that a machine can hold: sizes, names, where the environment is read, links that lead somewhere."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE_LINES = 400
FUNCTION_LINES = 70
SMALL_FILE_LINES = 250
SMALL_FILES = ("gateway/calls.py", "gateway/dialects/*.py", "inference/providers/*.py")
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager"}
TOP_LEVEL = {
    "pyproject.toml", "README.md", "LICENSE", "gateway", "billing", "inference", "migrations", "deploy", "tests",
}  # fmt: skip
ROOMS = ("gateway", "billing", "inference", "migrations")
# A settings class is the one reader of the environment; the launcher prepares another program's.
READS_ENVIRONMENT = re.compile(r"(^|/)settings\.py$|^gateway/embedded/launch\.py$")
LINK = re.compile(r"\]\(([^)\s]+)(?:\s[^)]*)?\)|(?:src|href)=\"([^\"]+)\"")
# Written apart, so that this file does not find itself.
LEFT_OVER = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X:", "HA" + "CK:")))
FOREIGN = re.compile(
    "|".join(("index" + "-url", "find" + "-links", '"res' + 'olved": "http', "/ro" + "ot/", "/wo" + "rk/"))
)


@cache
def files() -> tuple[str, ...]:
    """What the repository holds, or will with the next commit."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return tuple(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())


def sources(*prefixes: str) -> Iterator[tuple[str, str]]:
    for name in files():
        if name.endswith(".py") and name.startswith(prefixes or ("",)):
            yield name, (ROOT / name).read_text(encoding="utf-8")


def test_files_are_short() -> None:
    long = {name: n for name, text in sources() if (n := len(text.splitlines())) > FILE_LINES}
    assert long == {}


def test_the_paid_path_dialects_and_providers_are_shorter() -> None:
    small = [path for pattern in SMALL_FILES for path in ROOT.glob(pattern)]
    assert (ROOT / "gateway/calls.py") in small
    long = {str(p.relative_to(ROOT)): n for p in small if (n := len(p.read_text().splitlines())) > SMALL_FILE_LINES}
    assert long == {}


def test_functions_are_short() -> None:
    long = {}
    for name, text in sources():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long[f"{name}:{node.name}"] = lines
    assert long == {}


def test_modules_say_what_they_hold() -> None:
    assert [name for name, _ in sources() if {Path(name).stem, *Path(name).parts[:-1]} & VAGUE_NAMES] == []


def test_public_functions_and_modules_say_what_they_promise() -> None:
    silent = []
    for name, text in sources(*(f"{room}/" for room in ROOMS)):
        tree = ast.parse(text)
        if text.strip() and ast.get_docstring(tree) is None:
            silent.append(name)
        silent += [
            f"{name}:{node.name}"
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and ast.get_docstring(node) is None
            and not name.startswith("migrations/versions/")
        ]
    assert silent == []


def test_the_top_level_is_fixed() -> None:
    top = {name.split("/", 1)[0] for name in files()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_nothing_is_left_over() -> None:
    assert [name for name, text in sources() if LEFT_OVER.search(text)] == []


def test_nothing_speaks_of_the_machine_it_was_written_on() -> None:
    texts = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".sh", ".js", ".mjs", ".html", ".css", ".sql", ""}
    odd = []
    for name in files():
        if (ROOT / name).suffix in texts:
            text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
            odd += [f"{name}: {found[0]}" for found in FOREIGN.finditer(text)]
    assert odd == []


def test_only_settings_read_the_environment() -> None:
    readers = []
    for name, text in sources(*(f"{room}/" for room in ROOMS)):
        if READS_ENVIRONMENT.search(name):
            continue
        readers += [
            f"{name}:{node.lineno}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
        ]
    assert readers == []


def test_middleware_is_plain_asgi() -> None:
    assert [name for name, text in sources("gateway/") if "BaseHTTP" + "Middleware" in text] == []


def test_links_in_the_documents_lead_somewhere() -> None:
    broken = []
    for name in files():
        if not name.endswith(".md"):
            continue
        for found in LINK.finditer((ROOT / name).read_text(encoding="utf-8")):
            target = (found[1] or found[2]).split("#", 1)[0]
            relative = target and "://" not in target and not target.startswith("mailto:")
            if relative and not ((ROOT / name).parent / target).exists():
                broken.append(f"{name}: {target}")
    assert broken == []


def test_each_room_introduces_itself() -> None:
    expected = ["README.md", *(f"{room}/README.md" for room in ("gateway", "billing", "inference"))]
    assert [name for name in expected if not (ROOT / name).is_file()] == []


def test_pins_are_names_and_versions_only() -> None:
    lines = (ROOT / "deploy/constraints.txt").read_text().split()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
