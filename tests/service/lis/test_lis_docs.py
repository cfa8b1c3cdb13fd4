"""docs/lis.md: the commands of the page lead to a first result."""

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
    receiver, service, orders = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[:3]
    to, at = str(free_port()), str(free_port())
    assert "hl7_receiver.py" in receiver and "make serve" in service
    ports = dict(re.findall(r"MARROWLENS_LIS_(HL7_TO|HL7_LISTEN)=127.0.0.1:(\d+)", service))
    lis = {"lis_database": f"sqlite:///{tmp_path / 'lab.db'}", "lis_hl7_to": f"127.0.0.1:{to}"}
    command = [sys.executable, "examples/hl7_receiver.py", to]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "listening" in process.stdout.readline()
            with served(bundled_artefact(), **lis, lis_hl7_listen=f"127.0.0.1:{at}") as started:
                started.wait_listening()
                pasted = orders.replace(".venv-serve-cpu/bin/", f"{BIN}/").replace(ports["HL7_LISTEN"], at)
                pasted = pasted.replace("http://127.0.0.1:8000", started.url)
                done = subprocess.run(
                    ["sh", "-eu", "-c", pasted], capture_output=True, text=True, timeout=120, check=False
                )
                assert done.returncode == 0, done.stderr
                assert "MSA|AA|1" in done.stdout and '"status":"final"' in done.stdout
                header = process.stdout.readline()
        finally:
            process.terminate()
    assert "|ORU^R01^ORU_R01|" in header
    assert ports["HL7_TO"] in Path("examples/hl7_receiver.py").read_text()  # what it listens on by itself


def test_every_command_of_the_page_is_there() -> None:
    from service.cli.audit import audit_trail
    from service.cli.lis import lis

    names = {command.callback.__name__ for command in lis.registered_commands if command.callback}
    assert set(re.findall(r"marrowlens lis (\w+)", PAGE)) <= names
    assert names - set(re.findall(r"marrowlens lis (\w+)", PAGE)) == set()
    names = {command.callback.__name__ for command in audit_trail.registered_commands if command.callback}
    assert set(re.findall(r"marrowlens audit (\w+)", PAGE)) == names
