"""docs/operations.md: who is woken by an alert finds what it means and what to do; and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "raftkv.rules.yaml"
PAGES = (ROOT / "docs" / "operations.md", ROOT / "deploy" / "README.md")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
PARTS = ("- **Means** ", "- **Look** ", "- **Do** ")


def alerts() -> dict[str, str]:
    """Name -> where its annotation says that the runbook is."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    return {rule["alert"]: rule["annotations"]["runbook"] for rule in rules}


def sections() -> dict[str, str]:
    """Heading of an alert -> its text."""
    _, _, text = PAGES[0].read_text().partition("\n## What to alert on\n")
    chunks = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    return {heading: body for heading, _, body in (chunk.partition("\n") for chunk in chunks)}


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def test_every_alert_has_its_section_and_no_other() -> None:
    assert sorted(sections()) == sorted(alerts())


@pytest.mark.parametrize("alert", sorted(alerts()))
def test_a_section_says_what_it_means_and_what_to_do(alert: str) -> None:
    lines = sections()[alert].splitlines()
    assert [part for line in lines for part in PARTS if line.startswith(part)] == list(PARTS)
    assert alerts()[alert] == f"docs/operations.md#{anchor(alert)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for file, fragment in LINK.findall(page.read_text()):
        if "://" in file:
            continue
        target = (page.parent / file).resolve() if file else page
        if not target.exists():
            lost.append(file)
        elif fragment and fragment not in {anchor(each) for each in HEADING.findall(target.read_text())}:
            lost.append(f"{file}#{fragment}")
    assert lost == []
