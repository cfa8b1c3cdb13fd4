"""A laboratory's file of templates: what it may have, and what its errors say."""

from pathlib import Path

import pytest
from reported import differential

from model.contract import CLASSES
from service.config.lis import LaboratoryConfigError, LisSettings
from service.config.settings import Settings
from service.lis.domain.comment_templates import CommentTemplateError, CommentTemplates
from service.lis.laboratory import Laboratory
from service.telemetry.metric_registry import MetricRegistry

EXAMPLE = Path(__file__).parents[4] / "examples" / "comment_templates.toml"
CODES = {each.code for each in CLASSES}


def test_the_example_is_filled_whole() -> None:
    templates = CommentTemplates.load(EXAMPLE)
    assert templates.unknown_codes(CODES) == []
    texts = [each.text for each in templates.filled(differential(read=540), 14)]
    assert len(texts) == 3 and not any({"{", "}"} & set(text) for text in texts)
    assert texts[0].startswith("499 cells counted. Blasts 2.4 % (95 % interval 1.4 to 4.2 %).\nM:E ratio 2.9.")
    unread = CommentTemplates.load(EXAMPLE).filled(differential(), None)[0].text
    assert "M:E ratio not measured." in unread and "Megakaryocytes: not measured." in unread


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[template]]", "template.0.name: Field required"),
        ("[[templates]]", "templates: Extra inputs"),
        ("name = ", "not valid TOML"),
        ('[[template]]\nname = "a"\ntext = "{share.BLA"', "a: a brace without its partner"),
        (
            '[[template]]\nname = "a"\ntext = "{shares.BLA}"',
            "unknown placeholder {shares.BLA}; did you mean {share",
        ),
        ('[[template]]\nname = "a"\ntext = "{count}"', "unknown placeholder {count}; did you mean {count"),
        ('[[template]]\nname = "a"\ntext = "{me_ratio.BLA}"', "unknown placeholder {me_ratio.BLA}"),
        ('[[template]]\nname = "a"\ntext = "bell \\u0007"', "template.0.text: String should match"),
        ('[[template]]\nname = "a"\ntext = "x"\n' * 2, "two templates have this name"),
    ],
)
def test_an_error_says_what_to_change(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "templates.toml").write_text(text)
    with pytest.raises(CommentTemplateError) as error:
        CommentTemplates.load(tmp_path / "templates.toml")
    assert str(error.value).startswith(f"{tmp_path / 'templates.toml'}: ") and says in str(error.value)


def test_a_class_that_the_model_does_not_have_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "templates.toml").write_text('[[template]]\nname = "a"\ntext = "{share.XYZ} {low.BLA}"')
    lis = LisSettings(database=f"sqlite:///{tmp_path}/lab.db", comment_templates=tmp_path / "templates.toml")
    laboratory = Laboratory(Settings(lis=lis), MetricRegistry())
    with pytest.raises(LaboratoryConfigError, match="COMMENT_TEMPLATES: XYZ is no class of the model; use one of ABE"):
        laboratory.prepare(CLASSES)
