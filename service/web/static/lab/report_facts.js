/** What a report says besides its counts: status, people, comment, models. */

import { element } from "../page/element.js";
import { dateTime, list, number, text } from "../page/texts.js";

/** An assessment of a person: its grade, and the remark. */
export const assessmentWords = ({ grade, remark }) => text(`grade.${grade}`) + (remark ? `; ${remark}` : "");

/** Terms and descriptions for a list; without those that the report does not have. */
export function reportFacts(report) {
  const facts = [
    ["report.status", `${text(`report.status.${report.status}`)}, ${text("report.version", { version: report.version })}`],
    ["worklist.number", report.number],
    ["report.signed-by", report.signed_by],
    ["report.signed-at", report.signed_by && dateTime(report.created_at)],
    ["second-reading.by", report.second_reader],
    ["report.megakaryocytes", report.megakaryocytes === undefined ? null : number(report.megakaryocytes)],
    ["report.megakaryocyte-assessment", report.megakaryocyte_assessment && assessmentWords(report.megakaryocyte_assessment)],
    ["report.cellularity", report.cellularity && assessmentWords(report.cellularity)],
    ["report.comment", report.comment],
    ["report.correction", report.correction],
    ["about.model", list(report.models.map(({ name, version }) => `${name} ${version}`))],
  ].filter(([, value]) => value);
  return facts.flatMap(([key, value]) => [element("dt", {}, text(key)), element("dd", { class: "as-written" }, value)]);
}
