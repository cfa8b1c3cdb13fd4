/** What a report says besides its counts: status, people, comment, models. */

import { element } from "../page/element.js";
import { dateTime, list, number, text } from "../page/texts.js";

/** Terms and descriptions for a list; without those that the report does not have. */
export function reportFacts(report) {
  const facts = [
    ["report.status", `${text(`report.status.${report.status}`)}, ${text("report.version", { version: report.version })}`],
    ["worklist.number", report.number],
    ["report.signed-by", report.signed_by],
    ["report.signed-at", report.signed_by && dateTime(report.created_at)],
    ["second-reading.by", report.second_reader],
    ["report.megakaryocytes", report.megakaryocytes === undefined ? null : number(report.megakaryocytes)],
    ["report.comment", report.comment],
    ["report.correction", report.correction],
    ["about.model", list(report.models.map(({ name, version }) => `${name} ${version}`))],
  ].filter(([, value]) => value);
  return facts.flatMap(([key, value]) => [element("dt", {}, text(key)), element("dd", { class: "as-written" }, value)]);
}
