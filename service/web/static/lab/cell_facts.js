/** What is known about a cell of a specimen, in words for its detail view. */

import { element } from "../page/element.js";
import { className, dateTime, list, percent, text } from "../page/texts.js";
import { decisionWords, isNovel, noveltyWords, reasonWords } from "../page/words.js";
import { isChanged, isRead } from "./cells.js";
import { pictureUrl } from "./pictures.js";

/** Title, name, picture and facts of a cell. */
export async function describe(cell) {
  return {
    title: `${className(cell.code)} (${cell.code})`,
    name: [text("review.place", { place: cell.place }), cell.key].filter(Boolean).join(" · "),
    url: await pictureUrl(cell.place),
    facts: facts(cell),
  };
}

function facts(cell) {
  const { result } = cell;
  const { prediction, decision } = result;
  const reasons = reasonWords(result);
  const novelty = noveltyWords(result);
  return [
    isRead(cell) && element("p", { class: "verdict verdict-accept" }, text("review.read-by", { by: cell.read_by, time: dateTime(cell.read_at) })),
    !isRead(cell) && decision && element("p", { class: `verdict verdict-${decision}` }, element("strong", {}, decisionWords(decision)), " ", text(`decision.${decision}.what`)),
    reasons.length > 0 && element("ul", { class: "reasons" }, reasons.map((each) => element("li", {}, each))),
    element(
      "dl",
      { class: "fact-list" },
      isChanged(cell) && fact("review.suggested", className(prediction.code)),
      fact("detail.probability", percent(prediction.probability)),
      prediction.set && fact("detail.set", list(prediction.set.map((code) => className(code)))),
      novelty && fact("detail.novelty", novelty, isNovel(result.reasons) ? "is-novel" : null),
    ),
  ].filter(Boolean);
}

const fact = (key, value, kind) => [element("dt", {}, text(key)), element("dd", { class: kind }, value)];
