/** One cell of a specimen in the gallery: chosen by a click, opened by its second button, dragged onto a class. */

import { element } from "../page/element.js";
import { className, isolated, percent, text } from "../page/texts.js";
import { isChanged, isNovel, isRead } from "./cells.js";
import { showInView } from "./pictures.js";

export class CellTile {
  /** @param {object} listeners `choose(cell, event)`, `open(cell)`, `drag(cell, event)` */
  constructor(cell, listeners) {
    this.cell = cell;
    this.image = element("img", { alt: "", decoding: "async", draggable: "false" });
    this.words = element("span", { class: "tile-words" });
    this.people = element("span", { class: "chip chip-present tile-people", hidden: true });
    this.body = element(
      "button",
      { type: "button", class: "tile-body", tabindex: "-1", "aria-pressed": "false", onclick: (event) => listeners.choose(cell, event), ondblclick: () => listeners.open(cell) },
      element("span", { class: "tile-picture" }, this.image, this.people),
      this.words,
    );
    const open = element("button", { type: "button", class: "tile-open", tabindex: "-1", "aria-label": text("review.open"), title: text("review.open"), onclick: () => listeners.open(cell) }, "⤢");
    this.node = element("li", { class: "tile", draggable: "true", "data-place": cell.place, ondragstart: (event) => listeners.drag(cell, event) }, this.body, open);
    showInView(this.image, cell.place);
    this.update();
  }

  update() {
    const { cell } = this;
    this.node.dataset.decision = isRead(cell) ? "read" : cell.waits ? "review" : "none";
    this.words.replaceChildren(
      element("span", { class: "tile-class" }, className(cell.code), element("span", { class: "code" }, ` ${cell.code}`)),
      element("span", { class: "tile-set" }, isChanged(cell) ? text("review.was", { class: className(cell.suggested) }) : percent(cell.probability)),
      element(
        "span",
        { class: "chips" },
        ...[
          isRead(cell) && chip("read", `✓ ${isolated(cell.read_by)}`),
          !isRead(cell) && cell.waits && chip("review", text("review.waits")),
          !isRead(cell) && isNovel(cell) && chip("novel", text("tile.novel")),
        ].filter(Boolean),
      ),
      element("span", { class: "visually-hidden" }, text("review.place", { place: cell.place })),
    );
  }

  /** Show who else looks at the cell. */
  showPeople(names = []) {
    this.people.hidden = !names.length;
    this.people.textContent = names.length ? text("present.here", { names: names.join(", ") }) : "";
  }

  choose(isChosen) {
    this.body.setAttribute("aria-pressed", String(isChosen));
  }
}

const chip = (kind, words) => element("span", { class: `chip chip-${kind}` }, words);
