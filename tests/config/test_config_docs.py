"""docs/configuration.md says what the table says."""

from pathlib import Path

from raftkv.config.docs import render
from raftkv.config.tables import FEATURE_GATES, SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_page_is_fresh() -> None:
    assert PAGE.read_text() == render(), "run: python -m raftkv.config.docs > docs/configuration.md"


def test_page_names_every_setting_and_gate() -> None:
    page = render()
    assert all(f"`--{setting.name}`<br>`{setting.env}`" in page for setting in SETTINGS.values())
    assert all(f"`{gate}`" in page for gate in FEATURE_GATES)
