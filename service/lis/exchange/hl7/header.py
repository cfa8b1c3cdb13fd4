"""MSH, the header segment of every HL7 message that this service sends. Pure, no I/O."""

from datetime import datetime

from service.config.lis import LisSettings
from service.lis.exchange.hl7.segments import components, segment, text
from service.lis.exchange.hl7.times import written

VERSION = "2.5.1"
#: hl7_acks to MSH-15 and MSH-16. `application` is what IHE LAW asks for.
CONDITIONS = {"original": ("", ""), "accept": ("AL", "NE"), "application": ("NE", "AL"), "both": ("AL", "AL")}


def header(settings: LisSettings, kind: tuple[str, str, str], control_id: str, sent_at: datetime) -> str:
    """The MSH segment. Sender, receiver and acknowledgement mode come from the settings.

    Raises:
        ValueError: the control id is not 1 to 20 characters (HL7 v2.5.1).
    """
    if not 1 <= len(control_id) <= 20:
        raise ValueError(f"a control id has 1 to 20 characters, not {len(control_id)}")
    accept_ack, application_ack = CONDITIONS[settings.hl7_acks]
    fields = {
        3: text(settings.hl7_application),
        4: text(settings.hl7_facility),
        5: text(settings.hl7_to_application),
        6: text(settings.hl7_to_facility),
        7: text(written(sent_at)),
        9: components(*kind),
        10: text(control_id),
        11: text(settings.hl7_processing_id),
        12: text(VERSION),
        15: text(accept_ack),
        16: text(application_ack),
        18: text(settings.hl7_charset),
    }
    return segment("MSH", fields)
