/** The second reader: who has confirmed the cells, and whether that still holds. */

import { byId } from "../page/element.js";
import { dateTime, text } from "../page/texts.js";
import { isOpen } from "./specimen.js";

export function showSecondReading(specimen) {
  const found = specimen.second_reading;
  byId("second-reading").hidden = !found || !isOpen(specimen);
  if (!found) return;
  byId("second-reading-state").textContent = words(found);
  byId("confirm").hidden = found.current;
}

function words({ by, at, current }) {
  if (!by) return text("second-reading.none");
  return text(current ? "second-reading.current" : "second-reading.outdated", { name: by, time: dateTime(at) });
}
