/** The report as it would be signed, and the messages as receivers would get them. */

import { countTable } from "../page/count_chart.js";
import { byId, element } from "../page/element.js";
import { text, textOr } from "../page/texts.js";
import { patientData, patientName } from "./patient.js";
import { reportFacts } from "./report_facts.js";

/** @param {() => void} print saves the report as a PDF */
export function showPreview({ report, messages }, print) {
  byId("preview-pdf").onclick = print;
  byId("preview-report").replaceChildren(...reportParts(report));
  byId("preview-messages").replaceChildren(...(messages.length ? messages.map(message) : [element("p", { class: "notice" }, text("report.preview.no-receiver"))]));
  byId("preview-dialog").showModal();
}

const reportParts = (report) => [
  element("h3", {}, patientName(report.patient)),
  element("p", { class: "fine" }, patientData(report)),
  element("dl", { class: "fact-list" }, reportFacts(report)),
  countTable(report.differential),
];

/** HL7 and ASTM end their segments by a carriage return: one line each. */
function message({ channel, message: content }) {
  const lines = content.replaceAll("\r\n", "\n").replaceAll("\r", "\n");
  return element(
    "details",
    {},
    element("summary", {}, text("report.message", { channel: textOr(`channel.${channel}`, channel) })),
    element("pre", { tabindex: "0", "aria-label": text("report.message", { channel }) }, pretty(lines)),
  );
}

function pretty(content) {
  if (!content.startsWith("{")) return content;
  try {
    return JSON.stringify(JSON.parse(content), null, 2);
  } catch {
    return content;
  }
}

byId("preview-close").addEventListener("click", () => byId("preview-dialog").close());
