"""A laboratory's system that sends messages to the use cases and reads the answers; two patients and an order."""

import asyncio
from typing import Any

import hl7
from laboratory import order

from service.config.lis import LisSettings
from service.lis.exchange.mllp.listener import OrderMessages
from service.lis.exchange.orders import MessageIdentity, Peer
from service.lis.schemas import Specimen
from service.lis.use_cases import UseCases

ERIKA = "PID|1||100234^^^HOSPITAL^MR||Muster^Erika^^^^^L||19640812|F"
ANTON = "PID|1||999999^^^HOSPITAL^MR||Fremd^Anton||19500101|M"
SPM = "SPM|1|T-1||MAR^Marrow^HL70487|||||||||||||20260504083000+0200"
ORC, OBR = "ORC|NW|P-1|F-1", "OBR|1|P-1|F-1|BMDIFF^Marrow differential^99LAB"


class Sender:
    """A laboratory's system: sends messages, each with a control id of its own, and reads the acknowledgement."""

    def __init__(self, front: UseCases, **settings: Any) -> None:
        self.front = front
        self._messages = OrderMessages(LisSettings(**settings), self._take)
        self._sent = 0

    async def _take(self, message: MessageIdentity, orders: Any) -> None:
        self.front.take_orders(message, orders)

    def answer(self, *segments: str, kind: str = "OML^O33^OML_O33", zone: str = "+0200") -> str:
        """The answer to a message. MSH-7 has this zone."""
        self._sent += 1
        message = order(*segments, kind=kind, f7=f"20260504083000{zone}", f10=f"C-{self._sent}")
        (answer,) = asyncio.run(self._messages.answers(message.encode(), Peer("192.0.2.1")))
        return answer.decode()

    def send(self, *segments: str, kind: str = "OML^O33^OML_O33", zone: str = "+0200") -> str:
        """MSA-1, and the code of the error if there is one."""
        parsed = hl7.parse(self.answer(*segments, kind=kind, zone=zone))
        outcome = str(parsed.segments("MSA")[0][1])
        return outcome if outcome == "AA" else f"{outcome} {str(parsed.segments('ERR')[0][3]).split('^')[0]}"

    def specimen(self, number: str = "T-1") -> Specimen:
        (found,) = self.specimens(number)
        return found

    def specimens(self, number: str) -> list[Specimen]:
        """All of a tube: one for each order."""
        return [self.front.get(found.id) for found in self.front.list(None, number, None, 100).specimens]
