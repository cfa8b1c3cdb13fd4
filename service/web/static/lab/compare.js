/** The chosen cells side by side. */

import { byId, element } from "../page/element.js";
import { className, isolated, list, percent, text } from "../page/texts.js";
import { isRead } from "./cells.js";
import { pictureUrl } from "./pictures.js";

export const MOST_COMPARED = 4;

/** Show two to four cells beside each other. */
export async function compareCells(cells) {
  byId("compare-cells").replaceChildren(...(await Promise.all(cells.map(compared))));
  byId("compare-dialog").showModal();
}

async function compared(cell) {
  const { place, code, suggested, probability, prediction_set: set } = cell;
  const url = await pictureUrl(place);
  const facts = [
    text("compare.suggested", { class: className(suggested), probability: percent(probability) }),
    set?.length > 1 && text("compare.set", { classes: list(set.map((each) => className(each))) }),
    isRead(cell) && `✓ ${isolated(cell.read_by)}`,
  ];
  return element(
    "li",
    {},
    url ? element("img", { src: url, alt: "" }) : element("p", { class: "fine" }, text("review.no-picture")),
    element("h3", {}, className(code), element("span", { class: "code" }, ` ${code}`)),
    element("p", { class: "fine" }, text("review.place", { place })),
    facts.filter(Boolean).map((each) => element("p", {}, each)),
  );
}

byId("compare-close").addEventListener("click", () => byId("compare-dialog").close());
