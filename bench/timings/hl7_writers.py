"""Time to write one report: the own writer compared with hl7apy, which creates an object for each field.

    .venv/bin/python -m bench.timings.hl7_writers

Source of the figures in docs/decisions/0009-hl7.md. hl7apy gets finished values, segment by segment, unvalidated.
"""

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

from hl7apy.core import Message

from model.contract import CLASSES
from service.config.lis import LisSettings
from service.lis.api.examples import REPORT
from service.lis.domain.differential import CountingRules, Tally, specimen_differential
from service.lis.domain.report import Report
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.hl7.results import encode_report
from service.lis.exchange.observations import observations

ROUNDS = 30


def whole_report() -> Report:
    """A report of all classes with more than 500 cells, each read by a person."""
    counts = {cell_class.code: 24 for cell_class in CLASSES}
    differential = specimen_differential(Tally(counts, 24 * len(CLASSES)), CLASSES, (), CountingRules())
    return Report.model_validate(REPORT | {"differential": differential})


def by_hl7apy(of: Report) -> str:
    """The same results as hl7apy's ORU_R01."""
    message = Message("ORU_R01", version="2.5.1")
    message.msh.msh_9, message.msh.msh_10, message.msh.msh_11 = "ORU^R01^ORU_R01", "1", "P"
    result = message.add_group("oru_r01_patient_result")
    result.add_group("oru_r01_patient").pid.pid_3 = of.patient.identifier
    order = result.add_group("oru_r01_order_observation")
    order.obr.obr_3, order.obr.obr_25 = of.number, "F"
    for number, each in enumerate(observations(of), 1):
        group = order.add_group("oru_r01_observation")
        obx = group.obx
        obx.obx_1, obx.obx_2, obx.obx_3 = str(number), "NM", f"{each.key}^{each.name}^L"
        obx.obx_5, obx.obx_6, obx.obx_11 = str(each.value), f"{each.unit or ''}^^UCUM", "F"
        for words in each.notes:
            group.add_segment("NTE").nte_3 = words
    return str(message.to_er7())


def median_ms(write: Callable[[], str]) -> float:
    """Median of ROUNDS, in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        write()
        times.append(1000 * (time.perf_counter() - began_s))
    return statistics.median(times)


def main() -> None:
    of, sender, code_of = whole_report(), LisSettings(), CodeMap.load().code_of(signed=True)
    now = datetime.now(UTC)
    ours = median_ms(lambda: encode_report(of, code_of, sender, control_id="1", sent_at=now))
    theirs = median_ms(lambda: by_hl7apy(of))
    print(f"{len(observations(of))} results, median of {ROUNDS}: own writer {ours:.2f} ms, hl7apy {theirs:.1f} ms")  # noqa: T201


if __name__ == "__main__":
    main()
