/** What a specimen lacks to be signed, in the page's language: the service refuses, and the page has the numbers. */

import { text } from "../page/texts.js";

/** @param {(name: string) => boolean} isAccepted whether the person signs in spite of it */
export function missingWords({ differential, second_reading: second }, isAccepted) {
  const { counted, target_cells: target, waiting_review: count, to_go: missing } = differential;
  const words = [
    !counted && text("report.missing.cells"),
    count > 0 && !isAccepted("accept_unread") && text("report.missing.unread", { count }),
    counted > 0 && missing > 0 && !isAccepted("accept_below_target") && text("report.missing.target", { counted, target }),
    second?.required && !second.current && text("second-reading.none"),
  ].filter(Boolean);
  if (!words.length && second?.current) words.push(text("second-reading.same"));
  return [text("report.missing"), ...words].join(" ");
}
