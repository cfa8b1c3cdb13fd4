/** What is known about one answered cell, in words for its detail view. */

import { element } from "../page/element.js";
import { className, list, percent, text } from "../page/texts.js";
import { decisionWords, isNovel, noveltyWords, reasonWords, suggested } from "../page/words.js";

/** Title, name, picture and facts of a cell. */
export const describe = (cell) => ({
  title: suggested(cell.result),
  name: cell.name,
  url: cell.url,
  facts: facts(cell.result),
});

function facts(result) {
  const { prediction, decision } = result;
  const novelty = noveltyWords(result);
  const reasons = reasonWords(result);
  const set = prediction.set?.map((code) => className(code));
  const saysUnsupported = (result.reasons ?? []).some(({ code }) => code === "unsupported");
  return [
    decision && element("p", { class: `verdict verdict-${decision}` }, element("strong", {}, decisionWords(decision)), " ", text(`decision.${decision}.what`)),
    reasons.length > 0 && element("ul", { class: "reasons" }, reasons.map((each) => element("li", {}, each))),
    element(
      "dl",
      { class: "fact-list" },
      fact("detail.probability", percent(prediction.probability)),
      set && fact("detail.set", list(set)),
      novelty && fact("detail.novelty", novelty, isNovel(result.reasons) ? "is-novel" : null),
      !saysUnsupported && fact("detail.support", text(prediction.supported ? "class.supported" : "class.unsupported")),
    ),
  ].filter(Boolean);
}

const fact = (key, value, kind) => [element("dt", {}, text(key)), element("dd", { class: kind }, value)];
