#!/usr/bin/env python3
"""Checks that what the documents name in backticks exists: paths, command-line flags, configuration keys, and symbols.

Looked at: README.md and docs/**/*.md. A backticked word counts as
  a path     when it starts with a top-level folder or names a top-level file (globs and <placeholders> are skipped);
  a flag     when it starts with `--`: it must appear in src/apps, src/config or a script;
  a key      when it is section.name of a section that docs/config.md lists: it must be one of its keys;
  a symbol   when it ends in () or is CamelCase: it must appear in include/, src/, tests/ or kernels/.
Comments of the source name pages as `docs/*.md`: the page must exist, and so must a heading for `section N` or "TITLE" behind it.
docs/config.md must be what the program prints, when the program is built. Links to local files must resolve.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOP = {"src", "include", "kernels", "configs", "scripts", "tests", "third_party", "docs", "models"}
FOREIGN = {"LlamaForCausalLM", "MistralForCausalLM", "TensorBoard", "SentencePiece"}


def text_of(folders: list[str], suffixes: set[str]) -> str:
    files = [p for f in folders for p in sorted((ROOT / f).rglob("*")) if p.suffix in suffixes]
    return "\n".join(p.read_text(errors="replace") for p in files)


def config_keys() -> set[str]:
    page = ROOT / "docs/config.md"
    return set(re.findall(r"^\| `([a-z0-9_.]+)`", page.read_text(), re.M)) if page.exists() else set()


def check_generated(problems: list[str]) -> None:
    program = ROOT / "build/bin/longlora-train"
    if program.exists():
        printed = subprocess.run([program, "config", "schema", "--markdown"], capture_output=True, text=True, check=True).stdout
        if printed != (ROOT / "docs/config.md").read_text():
            problems.append("docs/config.md differs from what the program prints; run: build/bin/longlora-train config schema --markdown")


REFERENCE = re.compile(r'\b(docs/[\w/-]+\.md)((?:,? sections? (\d+)(?: (?:to|and) (\d+))?)|, "([^"]+)")?')


def check_sources(problems: list[str]) -> int:
    """References of source files to pages; returns how many there are."""
    checked = 0
    for path in sorted(p for f in ("src", "include", "kernels", "tests", "scripts") for p in (ROOT / f).rglob("*")):
        if path.suffix not in {".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".txt", ".cmake"}:
            continue
        text = re.sub(r"\s*\n\s*(?://+|#)?\s*", " ", path.read_text(errors="replace"))  # a comment's sentence on one line
        for page, _, first, last, title in REFERENCE.findall(text):
            checked += 1
            headings = re.findall(r"^#+ (.*)", (ROOT / page).read_text(), re.M) if (ROOT / page).exists() else None
            wanted = [word for word in (first and first + ".", last and last + ".", title) if word]
            if headings is None:
                problems.append(f"{path.relative_to(ROOT)}: {page} does not exist")
            elif lost := [w for w in wanted if not any(re.match(rf"([\d.]+ )?{re.escape(w)}", h) for h in headings)]:
                problems.append(f"{path.relative_to(ROOT)}: {page} has no heading {lost[0]}")
    return checked


def main() -> int:
    code = text_of(["include", "src", "tests", "kernels"], {".h", ".cpp", ".cu", ".cuh", ".py"})
    flags = text_of(["src/apps", "src/config", "src/train", "scripts", "tests"], {".h", ".cpp", ".sh", ".py"})
    keys = config_keys()
    sections = {k.split(".")[0] for k in keys if "." in k}
    problems, checked = [], 0
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        name = page.relative_to(ROOT)
        body = page.read_text()
        for number, line in enumerate(body.splitlines(), 1):
            for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", line):
                checked += 1
                if not (page.parent / link).exists():
                    problems.append(f"{name}:{number}: link to {link}, which does not exist")
            for word in re.findall(r"`([^`]+)`", line):
                first = word.split()[0].rstrip(".,;") if word.split() else ""
                if re.search(r"[*<>{}$\[\]]|\.\.\.", first):
                    continue
                if first.split("/")[0] in TOP and "/" in first:
                    checked += 1
                    if not (ROOT / first.split(":")[0]).exists():
                        problems.append(f"{name}:{number}: path {first} does not exist")
                elif re.fullmatch(r"--[a-z][a-z0-9_-]+", first):
                    checked += 1
                    if first[2:] not in flags:
                        problems.append(f"{name}:{number}: flag {first} is not in the program or a script")
                elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", first) and first.split(".")[0] in sections and page.name != "config.md":
                    checked += 1
                    if first not in keys and not any(k.startswith(first + ".") for k in keys):
                        problems.append(f"{name}:{number}: configuration key {first} does not exist")
                elif re.fullmatch(r"\w+\(\)", first) or re.fullmatch(r"([A-Z][a-z0-9]+){2,}", first):
                    checked += 1
                    if first.rstrip("()") not in code and first not in FOREIGN:
                        problems.append(f"{name}:{number}: symbol {first} is not in the source")
    checked += check_sources(problems)
    check_generated(problems)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"check_docs: {checked} references, {len(problems)} broken")
    return 1 if problems or checked < 50 else 0


sys.exit(main())
