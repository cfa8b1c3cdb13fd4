/** One cell in the gallery. */

import { problemText } from "../page/api.js";
import { element } from "../page/element.js";
import { alternatives, className, percent, text } from "../page/texts.js";
import { decisionWords, isNovel } from "../page/words.js";
import { decisionOf } from "./cells.js";

const MOST_NAMES = 2;

/** The tile of a cell, to be drawn anew with `update` when the cell has its answer. */
export function tile(cell, open) {
  const node = element("li", { class: "tile" });
  const update = () => {
    const decision = decisionOf(cell);
    node.dataset.decision = decision;
    const hadFocus = node.contains(document.activeElement);
    const tabindex = node.firstElementChild?.getAttribute("tabindex") ?? "-1";
    node.replaceChildren(cell.state === "answered" ? answered(cell, open, tabindex) : unanswered(cell, tabindex));
    if (hadFocus) node.firstElementChild.focus();
  };
  update();
  return { node, update };
}

function answered(cell, open, tabindex) {
  const { prediction, reasons, decision } = cell.result;
  const others = (prediction.set ?? []).slice(1);
  return element(
    "button",
    { type: "button", class: "tile-body", tabindex, onclick: () => open(cell) },
    picture(cell),
    element(
      "span",
      { class: "tile-class" },
      className(prediction.code, prediction.name),
      element("span", { class: "code" }, ` ${prediction.code}`),
    ),
    share(prediction.probability),
    others.length > 0 && element("span", { class: "tile-set" }, text("tile.set", { others: shortened(others) })),
    element(
      "span",
      { class: "chips" },
      decision && chip(decision, decisionWords(decision)),
      isNovel(reasons) && chip("novel", text("tile.novel")),
      !prediction.supported && chip("unsupported", text("tile.unsupported")),
    ),
    element("span", { class: "visually-hidden tile-file" }, ` ${cell.name}`), // seen in print
  );
}

/** Names of classes for the little space of a tile; the detail view has all of them. */
function shortened(codes) {
  const names = codes.slice(0, MOST_NAMES).map((code) => className(code));
  const more = codes.length - names.length;
  return alternatives(more ? [...names, text("tile.set.more", { count: more })] : names);
}

function unanswered(cell, tabindex) {
  const failed = cell.state === "failed";
  return element(
    "div",
    { class: "tile-body", tabindex, role: "group" },
    picture(cell),
    element("span", { class: "tile-name" }, cell.name),
    failed && element("span", { class: "tile-problem" }, problemText(cell.problem)),
    !failed && element("span", { class: "tile-wait" }, text("tile.waiting")),
  );
}

const chip = (kind, words) => element("span", { class: `chip chip-${kind}` }, words);

function share(probability) {
  const filled = element("span");
  filled.style.inlineSize = `${100 * probability}%`;
  return element("span", { class: "share" }, element("span", { class: "meter" }, filled), percent(probability));
}

function picture({ url }) {
  const frame = element("span", { class: "tile-picture" });
  if (!url) return frame;
  const image = element("img", { src: url, alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.remove()); // no picture, or a type that this browser does not draw
  frame.append(image);
  return frame;
}
