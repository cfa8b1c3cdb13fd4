"""docs/lis.md: the commands of the page lead to a first result."""

import os
import re
import subprocess
import sys
from pathlib import Path

from databases import free_port
from serving import served

from service.runtime.artifact import bundled_artefact

PAGE = Path("docs/lis.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def test_the_page_leads_to_a_first_result(tmp_path: Path) -> None:
    service, *pasted = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[:5]
    assert "make serve" in service and "/sign" in pasted[-1]
    variables = dict(re.findall(r"MARROWLENS_(LIS_\w+)=(\S+)", service))
    to, at = str(free_port()), str(free_port())
    ports = {variables["LIS_HL7_TO"]: f"127.0.0.1:{to}", variables["LIS_HL7_LISTEN"]: f"127.0.0.1:{at}"}
    given = {name.lower(): ports.get(value, value) for name, value in variables.items()}
    given["lis_database"] = f"sqlite:///{tmp_path / 'lab.db'}"
    commands = "".join(each for each in pasted).replace(".venv-serve-cpu/bin/python -m pip", "true")
    commands = commands.replace(".venv-serve-cpu/bin/", f"{BIN}/").replace("hl7_receiver.py", f"hl7_receiver.py {to}")
    commands = re.sub(r"examples/", f"{Path.cwd()}/examples/", commands).replace("order.hl7", f"order.hl7 {at}")
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with served(bundled_artefact(), **given) as started:
        started.wait_listening()
        commands = commands.replace("http://127.0.0.1:8000", started.url)
        commands += f"until curl -sS {started.url}/specimens/$ID | grep -q delivered; do :; done; kill $RECEIVER\n"
        done = subprocess.run(
            ["sh", "-eu", "-c", commands],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            cwd=tmp_path,
            env=environment,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "MSA|AA|1" in lines and any("|ORU^R01^ORU_R01|" in line for line in lines)
    assert '"status":"final"' in done.stdout and "signed_below_target" not in done.stdout
    assert (tmp_path / "cell-1.jpg").read_bytes().startswith(b"\xff\xd8")
    default = Path("examples/hl7_receiver.py").read_text() + Path("examples/hl7_send.py").read_text()
    assert all(address.rpartition(":")[2] in default for address in ports)  # what they use by themselves


def test_every_command_of_the_page_is_there() -> None:
    from service.cli.audit import audit_trail
    from service.cli.lis import lis

    names = {command.callback.__name__ for command in lis.registered_commands if command.callback}
    assert set(re.findall(r"marrowlens lis (\w+)", PAGE)) <= names
    assert names - set(re.findall(r"marrowlens lis (\w+)", PAGE)) == set()
    names = {command.callback.__name__ for command in audit_trail.registered_commands if command.callback}
    assert set(re.findall(r"marrowlens audit (\w+)", PAGE)) == names
