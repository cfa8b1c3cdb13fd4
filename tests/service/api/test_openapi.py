"""The OpenAPI document: the repository's file is current, examples fit their schemas, every route is documented."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from checkout import ROOT
from typer.testing import CliRunner

from service.api.openapi import as_file, document
from service.api.problems import PROBLEM_TYPES
from service.api.schemas import RESEARCH_USE, ClassifyAnswer
from service.app import create_app
from service.cli.main import app as command_line
from service.config.settings import Settings

FILE = ROOT / "openapi.json"
ROUTES = {
    ("post", "/classify"),
    ("post", "/classify/batch"),
    ("post", "/classify/differential"),
    ("get", "/worklist"),
    ("post", "/specimens/{specimen_id}/messages/{control_id}/retry"),
    ("post", "/specimens/{specimen_id}/messages/{control_id}/drop"),
    ("get", "/specimens/{specimen_id}/revision"),
    ("put", "/specimens/{specimen_id}/presence/{page}"),
    ("delete", "/specimens/{specimen_id}/presence/{page}"),
    ("get", "/reference-cells/{code}"),
    ("get", "/reference-cells/{code}/{picture}"),
    ("post", "/specimens/{specimen_id}/preview"),
    ("post", "/specimens/{specimen_id}/preview/pdf"),
    ("get", "/specimens/{specimen_id}/reports/{version}/pdf"),
    ("get", "/specimens/{specimen_id}/comparison"),
    ("get", "/specimens/{specimen_id}/comment-templates"),
    ("get", "/model/drift"),
    ("get", "/model"),
    ("post", "/model/reload"),
    ("get", "/classes"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
    ("get", "/metrics"),
    ("get", "/session"),
    ("post", "/sign-out"),
    ("get", "/specimens"),
    ("post", "/specimens"),
    ("get", "/specimens/{specimen_id}"),
    ("patch", "/specimens/{specimen_id}"),
    ("get", "/specimens/{specimen_id}/differential"),
    ("get", "/specimens/{specimen_id}/cells"),
    ("post", "/specimens/{specimen_id}/cells"),
    ("get", "/specimens/{specimen_id}/cells/{place}"),
    ("get", "/specimens/{specimen_id}/cells/{place}/picture"),
    ("post", "/specimens/{specimen_id}/readings"),
    ("post", "/specimens/{specimen_id}/second-reading"),
    ("post", "/specimens/{specimen_id}/preliminary"),
    ("post", "/specimens/{specimen_id}/sign"),
    ("post", "/specimens/{specimen_id}/amend"),
    ("post", "/specimens/{specimen_id}/cancel"),
    ("post", "/specimens/{specimen_id}/erase"),
    ("delete", "/specimens/{specimen_id}/cells/{place}"),
    ("get", "/specimens/{specimen_id}/reports/{version}"),
    ("get", "/specimens/{specimen_id}/audit"),
    ("get", "/readings"),
    ("get", "/readings/agreement"),
    ("get", "/v2"),
    ("get", "/v2/health/live"),
    ("get", "/v2/health/ready"),
    ("get", "/v2/models/{name}"),
    ("get", "/v2/models/{name}/ready"),
    ("post", "/v2/models/{name}/infer"),
    ("get", "/v2/models/{name}/versions/{version}"),
    ("get", "/v2/models/{name}/versions/{version}/ready"),
    ("post", "/v2/models/{name}/versions/{version}/infer"),
}
NATIVE = {
    *("count_cells", "classes", "classify", "classify_batch", "drift"),
    *("live", "metrics", "model", "ready", "reload"),
}
PROTOCOL = {
    *("server_metadata", "server_live", "server_ready", "inference", "inference_version"),
    *("inference_model", "inference_model_version", "inference_model_ready", "inference_model_version_ready"),
}
SESSIONS = {"session", "sign_out"}
LABORATORY = {
    *("open_specimen", "list_specimens", "look_at_specimen", "change_specimen", "cancel_specimen"),
    *("add_cells", "list_cells", "look_at_cell", "see_cell", "read_cells", "running_differential"),
    *("confirm_cells", "export_readings", "reading_agreement"),
    *("worklist", "preview_report", "specimen_revision", "retry_message", "drop_message"),
    *("report_preliminarily", "sign_specimen", "amend_specimen", "read_report", "audit_trail"),
    *("remove_cell", "erase_patient"),
    *("announce_presence", "end_presence", "list_reference_cells", "see_reference_cell"),
    *("remove_cell", "erase_patient", "comment_templates", "compare_with_previous"),
    *("print_preview", "print_stored_report"),
}


#: Problems with members of their own.
FORMS = {("/specimens/{specimen_id}/readings", "409"): "CellsProblem"}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return document(create_app(Settings()))


def operations(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): operation for path, all_ in found["paths"].items() for method, operation in all_.items()}


def test_the_file_in_the_repository_is_fresh() -> None:
    assert FILE.read_text(encoding="utf-8") == as_file(create_app(Settings())), "run `marrowlens openapi`"


def test_the_command_writes_and_checks(tmp_path: Path) -> None:
    out, run = tmp_path / "openapi.json", CliRunner().invoke
    assert run(command_line, ["openapi", "--out", str(out), "--check"]).exit_code == 1
    assert run(command_line, ["openapi", "--out", str(out)]).exit_code == 0
    assert run(command_line, ["openapi", "--out", str(out), "--check"]).exit_code == 0
    out.write_text(out.read_text().replace("Classify one cell", "Classify one"))
    stale = run(command_line, ["openapi", "--out", str(out), "--check"])
    assert stale.exit_code == 1
    assert "stale" in stale.output


def test_the_document_does_not_depend_on_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = as_file(create_app(Settings()))
    monkeypatch.setenv("MARROWLENS_MAX_IMAGE_BYTES", "1000")
    assert as_file(create_app(Settings())) == fresh


def test_an_unknown_setting_stops_the_command_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARROWLENS_PROT", "9000")
    stopped = CliRunner().invoke(command_line, ["openapi", "--check"])
    assert stopped.exit_code == 2
    assert "did you mean MARROWLENS_PORT?" in stopped.output


def test_every_route_is_there_and_named(found: dict[str, Any]) -> None:
    assert set(operations(found)) == ROUTES
    ids = [operation["operationId"] for operation in operations(found).values()]
    assert sorted(ids) == sorted(NATIVE | PROTOCOL | SESSIONS | LABORATORY)
    assert all(operation["summary"] and operation["tags"] for operation in operations(found).values())


def test_the_document_says_what_it_is_for(found: dict[str, Any]) -> None:
    assert RESEARCH_USE in found["info"]["description"]


def test_problems_are_documented_where_they_happen(found: dict[str, Any]) -> None:
    for route in (("post", "/classify"), ("post", "/classify/batch")):
        responses = operations(found)[route]["responses"]
        assert {"200", "408", "413", "415", "422", "429", "500", "503"} <= set(responses)
        for status, response in responses.items():
            assert "X-Request-ID" in response["headers"]
            if status != "200":
                assert list(response["content"]) == ["application/problem+json"]
    documented = {
        int(status)
        for operation in operations(found).values()
        for status in operation["responses"]
        if int(status) >= 400
    }
    assert documented == {kind.status for _, kind in PROBLEM_TYPES} | {
        400,
        500,
    }  # 400: FastAPI, for invalid JSON


def test_problems_below_v2_are_the_protocols_error_object(found: dict[str, Any]) -> None:
    for (_, path), operation in operations(found).items():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                form = response["content"]["application/problem+json"]["schema"]["$ref"].rsplit("/", 1)[1]
                expected = "InferenceProblem" if path.startswith("/v2") else "Problem"
                assert form == FORMS.get((path, status), expected), (path, status)


def test_a_form_that_nothing_answers_with_is_not_documented(found: dict[str, Any]) -> None:
    assert not {"HTTPValidationError", "ValidationError"} & found["components"]["schemas"].keys()
    assert "HTTPValidationError" not in json.dumps(found)


def examples(found: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [
        (f"{path} {status} {media_type}", content["schema"], content["example"])
        for (_, path), operation in operations(found).items()
        for status, response in operation["responses"].items()
        for media_type, content in response.get("content", {}).items()
        if "example" in content
    ]


def test_examples_keep_to_their_schemas(found: dict[str, Any]) -> None:
    assert len(examples(found)) > 15
    for name, schema, example in examples(found):
        validator = jsonschema_rs.validator_for({**schema, "components": found["components"]})
        assert [error.message for error in validator.iter_errors(example)] == [], name


def test_the_stream_example_is_lines_of_what_it_says(found: dict[str, Any]) -> None:
    content = operations(found)["post", "/classify/batch"]["responses"]["200"]["content"]
    *items, last = [json.loads(line) for line in content["application/x-ndjson"]["example"].splitlines()]
    for document_name, lines in (("BatchItem", items), ("BatchSummary", [last])):
        schema = {"$ref": f"#/components/schemas/{document_name}", "components": found["components"]}
        assert all(jsonschema_rs.is_valid(schema, line) for line in lines)


def test_the_example_answer_keeps_what_answers_promise(found: dict[str, Any]) -> None:
    content = operations(found)["post", "/classify"]["responses"]["200"]["content"]
    answer = ClassifyAnswer.model_validate(content["application/json"]["example"])
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.evidence
    for entry in answer.evidence:
        assert entry.values is not None
        assert float(entry.values.mean()) + entry.bias == pytest.approx(entry.logit)


def test_every_example_has_what_a_real_answer_has(found: dict[str, Any]) -> None:
    schema = found["components"]["schemas"]["ClassifyAnswer"]
    content = operations(found)["post", "/classify"]["responses"]["200"]["content"]
    assert set(content["application/json"]["example"]) == set(schema["properties"])


def test_the_laboratorys_examples_are_what_its_routes_take_and_answer(found: dict[str, Any]) -> None:
    schemas = found["components"]["schemas"]
    shown = 0
    for (_, path), operation in operations(found).items():
        if not path.startswith("/specimens"):
            continue
        answers = [answer for status, answer in operation["responses"].items() if status in ("200", "201")]
        for part in (operation.get("requestBody", {}), *answers):
            content = part.get("content", {}).get("application/json", {})
            if "example" in content:
                whole = {**content["schema"], "components": {"schemas": schemas}}
                jsonschema_rs.validate(whole, content["example"])
                shown += 1
    assert shown == 33
