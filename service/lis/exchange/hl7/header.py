"""Who sends, to whom, and which acknowledgements are asked for: MSH of a message of our own. Pure, no I/O.

Knows what of the settings stands in a message. Does not know what the message says.
"""

from dataclasses import dataclass
from datetime import datetime

from service.config.lis import LisSettings
from service.lis.exchange.hl7.segments import components, segment, text
from service.lis.exchange.hl7.times import written

VERSION = "2.5.1"
#: hl7_acks to MSH-15 and MSH-16. `application` is what IHE LAW asks for.
CONDITIONS = {"original": ("", ""), "accept": ("AL", "NE"), "application": ("NE", "AL"), "both": ("AL", "AL")}


@dataclass(frozen=True, slots=True)
class Sender:
    """One side of a conversation. `accept_ack` and `application_ack` are MSH-15 and MSH-16."""

    message: str
    application: str
    facility: str
    to_application: str
    to_facility: str
    processing_id: str
    charset: str
    accept_ack: str
    application_ack: str
    local_system: str
    specimen_type: str


def sender_of(settings: LisSettings) -> Sender:
    """The sender that a laboratory has set up."""
    accept_ack, application_ack = CONDITIONS[settings.hl7_acks]
    return Sender(
        message=settings.hl7_message,
        application=settings.hl7_application,
        facility=settings.hl7_facility,
        to_application=settings.hl7_to_application,
        to_facility=settings.hl7_to_facility,
        processing_id=settings.hl7_processing_id,
        charset=settings.hl7_charset,
        accept_ack=accept_ack,
        application_ack=application_ack,
        local_system=settings.local_system,
        specimen_type=settings.hl7_specimen_type,
    )


def header(sender: Sender, kind: tuple[str, str, str], control_id: str, sent_at: datetime) -> str:
    """MSH of a message of our own.

    Raises:
        ValueError: the control id is not 1 to 20 characters (HL7 v2.5.1).
    """
    if not 1 <= len(control_id) <= 20:
        raise ValueError(f"a control id has 1 to 20 characters, not {len(control_id)}")
    fields = {
        3: text(sender.application),
        4: text(sender.facility),
        5: text(sender.to_application),
        6: text(sender.to_facility),
        7: text(written(sent_at)),
        9: components(*kind),
        10: text(control_id),
        11: text(sender.processing_id),
        12: text(VERSION),
        15: text(sender.accept_ack),
        16: text(sender.application_ack),
        18: text(sender.charset),
    }
    return segment("MSH", fields)
