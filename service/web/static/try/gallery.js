/** The gallery of a run: filters, order, and one tile a cell. */

import { arrange, byId, element } from "../page/element.js";
import { makeTabStop, moveByArrows } from "../page/roving.js";
import { className, number, text } from "../page/texts.js";
import { DECISIONS } from "../page/words.js";
import { countsOf, decisionOf } from "./cells.js";
import { tile } from "./tile.js";

const BODY = ".tile-body";
const FILTERS = ["all", ...DECISIONS, "none", "problem"];

const probability = (cell) => cell.result?.prediction.probability ?? -1;
const unusualness = (cell) => cell.result?.novelty?.p_value ?? 2;
const shownName = ({ result }) => (result ? className(result.prediction.code, result.prediction.name) : "\uffff");
const urgency = (cell) => ["reject", "review", "problem", "accept", "none", "waiting"].indexOf(decisionOf(cell));

const ORDERS = {
  sent: (one, other) => one.number - other.number,
  uncertain: (one, other) => probability(one) - probability(other),
  certain: (one, other) => probability(other) - probability(one),
  unusual: (one, other) => unusualness(one) - unusualness(other),
  class: (one, other) => shownName(one).localeCompare(shownName(other)) || probability(other) - probability(one),
  decision: (one, other) => urgency(one) - urgency(other) || probability(one) - probability(other),
};

export class Gallery {
  /**
   * @param {(cell: object, shown: object[]) => void} open opens the detail view of a cell among the shown ones
   */
  constructor(open) {
    this.list = byId("gallery");
    this.cells = [];
    this.shown = [];
    this.tiles = new Map();
    this.open = (cell) => open(cell, this.shown);
    this.isDrawing = false;
    moveByArrows(this.list, BODY);
    byId("filters").addEventListener("change", () => this.draw());
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
  }

  add(cells) {
    this.cells.push(...cells);
    cells.forEach((cell) => this.tiles.set(cell, tile(cell, this.open)));
    this.drawSoon();
  }

  remove(cell) {
    this.cells = this.cells.filter((each) => each !== cell);
    this.tiles.delete(cell);
    this.drawSoon();
  }

  update(cell) {
    this.tiles.get(cell)?.update();
    this.drawSoon();
  }

  clear() {
    this.cells = [];
    this.tiles.clear();
    this.draw();
  }

  focus(cell) {
    this.tiles.get(cell)?.node.querySelector(BODY).focus();
  }

  /** Answers come faster than the screen: draw once a frame. */
  drawSoon() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.isDrawing = false;
    this.drawFilters();
    const order = ORDERS[byId("sort").value];
    this.shown = this.cells.filter((cell) => this.matches(cell)).sort((one, other) => order(one, other) || ORDERS.sent(one, other));
    arrange(this.list, this.shown.map((cell) => this.tiles.get(cell).node));
    byId("gallery-empty").hidden = this.shown.length > 0;
    makeTabStop(this.list, BODY);
  }

  matches(cell) {
    const decision = this.decision();
    const code = byId("filter-class").value;
    const below = Number(byId("filter-probability").value);
    return (
      (decision === "all" || decisionOf(cell) === decision) &&
      (!code || cell.result?.prediction.code === code) &&
      (below === 1 || (cell.result && probability(cell) < below))
    );
  }

  decision() {
    return byId("filters").elements.decision?.value || "all";
  }

  drawFilters() {
    const counts = { all: this.cells.length };
    for (const cell of this.cells) counts[decisionOf(cell)] = (counts[decisionOf(cell)] ?? 0) + 1;
    const chosen = this.decision();
    const shown = FILTERS.filter((each) => each === "all" || counts[each] || each === chosen);
    const now = shown.map((each) => `${each} ${counts[each]}`).join();
    if (this.filters === now) return;
    this.filters = now;
    drawSegments(shown, counts, chosen);
    drawClasses(countsOf(this.cells));
  }
}

function drawSegments(shown, counts, chosen) {
  const fieldset = byId("filter-decision");
  const hadFocus = fieldset.contains(document.activeElement);
  const segments = shown.map((each) =>
    element(
      "label",
      { class: `segment segment-${each}` },
      element("input", { type: "radio", name: "decision", value: each, checked: each === chosen }),
      element("span", {}, `${text(`filter.${each}`)} `, element("b", {}, number(counts[each] ?? 0))),
    ),
  );
  fieldset.replaceChildren(fieldset.querySelector("legend"), ...segments);
  if (hadFocus) fieldset.querySelector("input:checked").focus();
}

function drawClasses(counts) {
  const select = byId("filter-class");
  const chosen = select.value;
  const options = Object.keys(counts)
    .map((code) => [code, className(code)])
    .sort(([, one], [, other]) => one.localeCompare(other))
    .map(([code, name]) => element("option", { value: code, selected: code === chosen }, `${name} (${number(counts[code])})`));
  select.replaceChildren(select.options[0], ...options);
}
